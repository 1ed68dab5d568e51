"""Makes factors of the layers of a model as choices say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.formats.structures import Structure
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.structured.base import EXACT, Fit, Matrix
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.offers import Fitter, Offer, materialised
from sparsecc.passes.structured.rewrite import misfit, replace_layer
from sparsecc.passes.weights.layers import Layer, matrix
from sparsecc.passes.weights.prune_layer import Pruned, mean_shift, output_error
from sparsecc.quality.moments import Moments
from sparsecc.search.plan import Choice


@dataclass(frozen=True)
class Factored:
    """A layer and what its weight was made of.

    Attributes:
        layer: The layer.
        fit: Its factors.
        sparse: ``[R, K]`` beside them, or None.
    """

    layer: Layer
    fit: Fit
    sparse: Matrix | None = None


def exact_factors(layer: Layer, text: str) -> Factored | str:
    """The factors of a weight that has a structure exactly, or why it has not."""
    structure = Structure.parse(text)
    if why := misfit(layer, structure):
        return why
    fit = FORMS[structure.form].fit(np.asarray(matrix(layer), np.float64), structure, None)
    if fit.residual > EXACT**2:
        off = fit.residual**0.5
        return f"the weight is not {text}: it is {off:.1e} off, more than rounding"
    return Factored(layer, fit)


def offer_of(choice: Choice) -> Offer:
    """What a choice with a structure asks for."""
    return Offer(Structure.parse(choice.structure), choice.pattern, choice.sparsity)


def approximate(
    weight: Matrix, choice: Choice, train: Moments | None, held_out: Moments | None, *, shifts: bool
) -> tuple[Fit, Matrix | None, Pruned]:
    """Factors of a weight, and the weight they stand for with what it loses.

    Args:
        weight: ``[R, K]``.
        choice: With a structure.
        train: Statistics of the inputs that count, or None.
        held_out: Those that judge.
        shifts: Whether the bias may move.
    """
    moment = None
    if train is not None:
        moment = (train.centred if shifts else train.h)[0]
    fit, sparse = Fitter(weight, moment).factors(offer_of(choice))
    made = materialised(fit, sparse, (weight.shape[0], weight.shape[1]))
    shift = mean_shift(weight, made, train) if shifts and train is not None else None
    loss = None if held_out is None else output_error(weight, made, held_out, shift)
    return fit, sparse, Pruned(made, shift, loss, loss, f"fit of {choice.structure}")


def rewrite_layers(model: ir.Model, layers: Sequence[Factored]) -> None:
    """Put factors in the place of layers' weights, which they are equal to."""
    for each in layers:
        replace_layer(each.layer, each.fit, each.sparse)
    if layers:
        run([DeadCode(), ShapeInference()], model, Context())


def density(fit: Fit, sparse: Matrix | None, layer: Layer) -> float:
    """Parameters of factors and a sparse part as a share of the weight's."""
    shape = (layer.rows, layer.cols)
    kept = FORMS[fit.structure.form].price(fit.structure, shape).parameters
    kept += 0 if sparse is None else int(np.count_nonzero(sparse))
    return min(1.0, kept / (shape[0] * shape[1]))
