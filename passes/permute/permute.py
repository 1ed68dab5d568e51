"""Bring the channels of a model into the order under which its patterns of zeros cost least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.formats.patterns import mask_from_scores
from sparsecc.passes.base import Context
from sparsecc.passes.permute.couplings import Coupled, Couplings, Ids, find_couplings
from sparsecc.passes.permute.problems import (
    Scores,
    axes_of,
    groups_channels,
    importance,
    problems,
)
from sparsecc.passes.permute.rearrange import moved_array, rearrange, sources
from sparsecc.passes.permute.search import EFFORT, Order, search
from sparsecc.passes.weights.layers import Layer, as_matrix, find_layers, stored
from sparsecc.progress import Counted, halves
from sparsecc.quality.calibration import Calibration
from sparsecc.search.plan import Choice

PASS_NAME = "permute"

NO_GAIN = "no order of its channels keeps more"
NOT_FREE = "no channels that its pattern sees may change places"


@dataclass(frozen=True)
class Rearranged:
    """What the order of channels changed for one layer.

    Attributes:
        before: Share of the energy that its pattern keeps with channels as they were.
        after: The same now.
    """

    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"channels in another order: zeros keep {self.after:.1%} of what counts, not "
            f"{self.before:.1%}"
        )


def permute_model(
    model: ir.Model,
    choices: Mapping[str, Choice],
    calibration: Calibration | None,
    ctx: Context,
    *,
    seed: int = 0,
    effort: int = EFFORT,
    on_progress: Counted | None = None,
) -> dict[str, Rearranged]:
    """Permute coupled channels for what is to be pruned; what the model computes stays the same.

    Args:
        model: In canonical form, changed in place.
        choices: Layer name → what will be done to it. Where a layer keeps blocks of zeros that it
            has, their channels do not move.
        calibration: Sample inputs, to tell which weights matter; without them their squares do.
        ctx: Told of layers whose pattern gains nothing, and why.
        seed: Of the search.
        effort: Numbers looked at for one set of channels.
        on_progress: Called as (what, steps done, steps in all).

    Returns:
        Layer name → what changed, for layers whose channels moved.
    """
    layers = [
        layer
        for layer in find_layers(model).layers
        if layer.name in choices
        and groups_channels(choices[layer.name])
        and choices[layer.name].changes
    ]
    if not layers:
        return {}
    couplings = find_couplings(model)
    weighing, looking = halves(on_progress)
    weighed = importance(model, layers, calibration, weighing)
    there = _in_groups(model, choices, couplings)
    todo = [
        problem
        for problem in problems(couplings, layers, choices, weighed)
        if not np.isin(problem.coupled.units, there).any()
    ]
    orders, gained = list[tuple[Coupled, Order]](), set[str]()
    for done, problem in enumerate(todo):
        looking("looking for the order of channels", done, len(todo))
        found = search(problem.terms, seed=seed, effort=effort)
        if found.after > found.before:
            orders.append((problem.coupled, problem.order(found.order)))
            gained.update(problem.layers)
    seen = {name for problem in todo for name in problem.layers}
    before = {layer.name: _share(weighed[layer.name], choices[layer.name]) for layer in layers}
    moved = _moved_scores(couplings, orders, layers, weighed)
    rearrange(couplings, orders)
    for layer in layers:
        if layer.name not in gained:
            ctx.refuse(PASS_NAME, layer.node, NO_GAIN if layer.name in seen else NOT_FREE)
    return {
        layer.name: Rearranged(before[layer.name], _share(moved[layer.name], choices[layer.name]))
        for layer in layers
        if layer.name in gained
    }


def _in_groups(model: ir.Model, choices: Mapping[str, Choice], couplings: Couplings) -> Ids:
    """Classes of channels that zeros of layers are in blocks of already."""
    found = [np.zeros(0, np.int64)]
    for layer in find_layers(model).layers:
        choice, value = choices.get(layer.name), layer.node.inputs[1]
        if choice is None or choice.changes or not groups_channels(choice):
            continue
        if value is None or value not in couplings.constants:
            continue
        pattern = choice.pattern
        along = (pattern.block[0] > 1, pattern.block[1] > 1 or pattern.kind == "nm")
        axes = axes_of(layer, couplings.constants[value][1])
        found += [
            couplings.classes[tag].ravel()
            for tag, matters in zip(axes, along, strict=True)
            if tag is not None and matters
        ]
    return np.concatenate(found)


def _moved_scores(
    couplings: Couplings,
    orders: Sequence[tuple[Coupled, Order]],
    layers: Sequence[Layer],
    weighed: Mapping[str, Scores],
) -> dict[str, Scores]:
    """How much each weight matters when channels have moved."""
    come = sources(couplings, orders)
    found = {}
    for layer in layers:
        value, score = layer.node.inputs[1], weighed[layer.name]
        if value is None or value not in couplings.constants:
            found[layer.name] = score
            continue
        seen, tags = couplings.constants[value]
        array = stored(layer, score)
        moved = moved_array(array.reshape(seen), tags, come).reshape(array.shape)
        found[layer.name] = as_matrix(layer, moved)
    return found


def _share(weighed: Scores, choice: Choice) -> float:
    """Share of what counts that the pattern keeps."""
    mask = mask_from_scores(weighed, choice.pattern, choice.sparsity)
    return float(weighed[mask].sum() / max(weighed.sum(), 1e-300))


__all__ = ["Rearranged", "permute_model"]
