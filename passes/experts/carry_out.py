"""Mixtures get fewer experts, as a plan says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.errors import PlanError
from sparsecc.executor import in_threads
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.edit import fresh_name, new_initializer, owner
from sparsecc.passes.experts.find import EXPERTS, Mixture, Weights, find_mixtures
from sparsecc.passes.experts.merge import merged
from sparsecc.passes.experts.offers import left
from sparsecc.passes.experts.routing import Observed, lowest
from sparsecc.passes.weights.pack_mixtures import set_loads
from sparsecc.search.routing import PlanMixture

_FIX = "apply the plan to the model it was made for, or another checkpoint of it"


def carry_out(
    model: ir.Model, entries: Sequence[PlanMixture], seen: Mapping[str, Observed] | None = None
) -> None:
    """Give mixtures the experts that a plan leaves them, and say how tokens spread over these.

    Args:
        model: In canonical form; changed in place.
        entries: What the plan says.
        seen: Mixtures on calibration data, by name; without them nothing is refitted.

    Raises:
        PlanError: The model has no such mixture, or it is another.
    """
    here = {each.name: each for each in find_mixtures(model)}
    for entry in entries:
        _check(entry, here.get(entry.name))
    for entry in entries:
        set_loads(here[entry.name].node, entry.loads)
    fewer = [(here[entry.name], entry) for entry in entries if not entry.is_whole]
    made = in_threads(lambda each: _weights(*each, (seen or {}).get(each[1].name)), fewer)
    for (mixture, entry), weights in zip(fewer, made, strict=True):
        _shrink(mixture, entry, weights)
    run([DeadCode()], model, Context())


def _check(entry: PlanMixture, mixture: Mixture | None) -> None:
    if mixture is None:
        raise PlanError(
            f"the plan has a mixture of experts {entry.name!r}, the model has none", fix=_FIX
        )
    if len(entry.places) != mixture.count:
        raise PlanError(
            f"the plan has {len(entry.places)} experts, the model {mixture.count}",
            node=entry.name,
            fix=_FIX,
        )
    if entry.leaves_out and mixture.choice is None:
        raise PlanError(
            f"the plan leaves experts out, and they have to stay: {mixture.why}",
            node=entry.name,
            fix="merge experts instead, or let all of them stay",
        )
    if entry.leaves_out and sum(place >= 0 for place in entry.places) < mixture.least:
        raise PlanError(
            f"the plan leaves {entry.kept} experts, and a token has {mixture.least}",
            node=entry.name,
            fix="let as many stay",
        )


def _weights(mixture: Mixture, entry: PlanMixture, seen: Observed | None) -> Weights:
    if entry.refit and seen is not None:
        return left(seen, entry.places, refit=True)
    return merged(mixture.weights, entry.places, entry.chosen)


def _shrink(mixture: Mixture, entry: PlanMixture, weights: Weights) -> None:
    node, places = mixture.node, np.array(entry.places, np.int64)
    if entry.leaves_out:
        assert mixture.choice is not None
        _never(mixture.choice.node, places < 0)
    # An expert that cannot be chosen still is where all scores are below all numbers, or are none.
    table = new_initializer(node, f"{node.name}.places", np.maximum(places, 0))
    chosen = node.inputs[EXPERTS]
    assert chosen is not None
    node.replace_input_with(EXPERTS, _put(node, "Gather", f"{node.name}.place", table, chosen))
    for at, name in enumerate(ops.input_names(node.op_type)):
        if name in weights:
            fresh = new_initializer(node, f"{node.name}.{name}.kept", weights[name])
            node.replace_input_with(at, fresh)


def _never(choice: ir.Node, gone: NDArray[np.bool_]) -> None:
    """Let a choice find the least score for some experts."""
    scores = choice.inputs[0]
    assert scores is not None
    assert scores.dtype is not None
    mask = new_initializer(choice, f"{choice.name}.gone", gone)
    low = new_initializer(choice, f"{choice.name}.least", lowest(scores.dtype.numpy()))
    choice.replace_input_with(0, _put(choice, "Where", f"{choice.name}.left", mask, low, scores))


def _put(before: ir.Node, op_type: str, name: str, *inputs: ir.Value) -> ir.Value:
    """A new node's output, of the type and shape of its last input."""
    node = ir.Node("", op_type, inputs, name=name)
    output = node.outputs[0]
    output.name = fresh_name(owner(before), name)
    output.type, output.shape = inputs[-1].type, inputs[-1].shape
    owner(before).insert_before(before, node)
    return output


__all__ = ["carry_out"]
