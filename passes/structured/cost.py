"""Predicted time of a layer that runs as the products of its factors, in ONNX Runtime."""

from __future__ import annotations

import dataclasses

from sparsecc.cost import roofline
from sparsecc.cost.model import Estimate, cost_model, total
from sparsecc.cost.roofline import Work
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.base import Product, Shape
from sparsecc.passes.structured.forms import FORMS
from sparsecc.targets import Target

TURN_GBS = 12.0
"""Rate at which ONNX Runtime transposes activations, reading and writing, GB/s."""
TURN_SPREAD = 0.3


def estimate(structure: Structure, work: Work, target: Target) -> Estimate:
    """Time of a layer as its factors.

    Args:
        structure: The factors.
        work: The layer, without groups.
        target: Where it runs.
    """
    if work.is_conv:
        return _low_rank_conv(structure, work, target)
    shape: Shape = (work.rows, work.cols)
    price = FORMS[structure.form].price(structure, shape)
    parts = [_product(product, work.points, target) for product in price.products]
    for moved in price.turned:
        ms = roofline.NODE_MS + 8 * moved * work.points / TURN_GBS * 1e-6
        parts.append(Estimate(ms, TURN_SPREAD))
    return total(parts)


def is_covered(structure: Structure, target: Target) -> bool:
    """Whether there are fast kernels for a form: in ONNX Runtime, or else in the library.

    The library has products of tokens by a matrix: no batched ones, none from the left, no
    transpositions.
    """
    return structure.form == "rank" or not target.stands_alone


def _product(product: Product, tokens: int, target: Target) -> Estimate:
    """One node: a matrix product, or many small ones."""
    points = tokens * product.points
    one = cost_model(target).dense(_work(product.rows, product.cols, points))
    inside = max(one.ms - roofline.NODE_MS, 0.0) * product.batch
    return Estimate(roofline.NODE_MS + inside, one.spread)


def _work(rows: int, cols: int, points: int) -> Work:
    return Work(rows, cols, points, 1, cols * points, is_conv=False)


def _low_rank_conv(structure: Structure, work: Work, target: Target) -> Estimate:
    """A convolution with fewer outputs, then one of a pixel."""
    (rank,) = structure.sizes
    first = dataclasses.replace(work, rows=rank)
    second = dataclasses.replace(work, cols=rank, input_elements=rank * work.points, is_conv=True)
    costs = cost_model(target)
    return total([costs.dense(first), costs.dense(second)])
