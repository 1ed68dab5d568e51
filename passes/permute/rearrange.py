"""Moving channels: every weight, bias and constant that a permutation of coupled sets touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant
from sparsecc.passes.permute.couplings import Coupled, Couplings, Ids
from sparsecc.passes.permute.labels import Tag


def rearrange(couplings: Couplings, orders: Sequence[tuple[Coupled, Ids]]) -> list[ir.Value]:
    """Permute the channels of a model; what it computes stays the same.

    Args:
        couplings: What :func:`find_couplings` found in it; its initializers are changed in place.
        orders: Sets with their new order: where the i-th unit is, ``order[i]`` comes.

    Returns:
        The initializers that changed.

    Raises:
        ValueError: An order is no permutation of its set.
    """
    come = sources(couplings, orders)
    changed = []
    for value, (seen, tags) in couplings.constants.items():
        if all(np.array_equal(come[tag], tag) for tag in tags):
            continue
        array = constant(value)
        assert array is not None
        moved = moved_array(array.reshape(seen), tags, come).reshape(array.shape)
        value.const_value = ir.tensor(np.ascontiguousarray(moved), name=value.name)
        changed.append(value)
    return changed


def sources(couplings: Couplings, orders: Sequence[tuple[Coupled, Ids]]) -> Ids:
    """Label → the label that comes to its place: of the class that comes, the one that looks so.

    Raises:
        ValueError: An order is no permutation of its set.
    """
    came = np.arange(int(couplings.classes.max()) + 1)
    for coupled, order in orders:
        if not np.array_equal(np.sort(order), np.arange(len(coupled.units))):
            raise ValueError(f"no permutation of {len(coupled.units)} units")
        step = np.arange(came.size)
        step[coupled.units] = coupled.units[order]
        came = came[step]
    order = np.lexsort((couplings.looks, couplings.classes))
    classes = couplings.classes[order]
    starts = np.searchsorted(classes, np.arange(came.size))
    come = np.empty_like(order)
    come[order] = order[starts[came[classes]] + np.arange(order.size) - starts[classes]]
    return come


def moved_array(array: NDArray[Any], tags: Sequence[Tag], come: Ids) -> NDArray[Any]:
    """An array whose channels come from elsewhere.

    Args:
        array: As its tags see it.
        tags: Labels along some of its axes, which no two tags disagree on.
        come: Label → the label that comes to its place.
    """
    indices: dict[int, Ids] = {}
    for tag in tags:
        flat = tag.ravel()
        where = np.argsort(flat)
        found = where[np.searchsorted(flat, come[flat], sorter=where)].reshape(tag.shape)
        for axis, index in enumerate(np.unravel_index(found, tag.shape)):
            if tag.shape[axis] > 1:
                indices[axis] = index
    for axis in [axis for axis, index in indices.items() if index.size == index.shape[axis]]:
        array = array.take(indices.pop(axis).ravel(), axis)  # this axis moves by itself
    if indices:
        ranges = np.ogrid[tuple(slice(size) for size in array.shape)]
        array = array[tuple(indices.get(axis, ranges[axis]) for axis in range(array.ndim))]
    return array


__all__ = ["moved_array", "rearrange", "sources"]
