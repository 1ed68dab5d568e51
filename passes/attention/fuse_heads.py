"""Heads that want their tokens in one order are brought next to each other. Exact.

Heads change places offline: in the weights, biases, norms and constants that have something for
each head. Such heads are then a part of queries, keys, values and results; where they lie apart,
they have to be gathered, and put back. Under grouped queries whole groups change places, and the
heads within a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from sparsecc.passes.attention.skipped import units_of
from sparsecc.passes.base import Context
from sparsecc.passes.permute.couplings import Coupled, Couplings, Ids, find_couplings
from sparsecc.passes.permute.rearrange import rearrange, sources

PASS_NAME = "fuse-heads"
_GROUPS_APART = "several groups of heads that share keys have heads of both kinds"
Orders = list[tuple[Coupled, Ids]]


def fuse_heads(
    model: ir.Model, apart: Mapping[str, Sequence[bool]], ctx: Context
) -> dict[str, list[int]]:
    """Part the heads of attentions in two, as far as the model lets heads move.

    Args:
        model: In canonical form; its initializers change.
        apart: Name of an attention's last node → which of its heads want their tokens in another
            order; these come last.
        ctx: Told of attentions whose heads stay as they are.

    Returns:
        Name → the head that is now in each place.
    """
    mixed = [name for name, moved in apart.items() if not _is_parted(moved)]
    placed = {name: list(range(len(moved))) for name, moved in apart.items()}
    if not mixed:
        return placed
    couplings, last = find_couplings(model), {str(node.name): node for node in model.graph}
    orders: Orders = []
    for name in mixed:
        more = _parting(last[name], apart[name], couplings, orders)
        now = _heads_at(last[name], couplings, more)
        if now is not None and _is_parted([apart[name][head] for head in now]):
            orders = more
        else:
            reason = f"its heads stay where they are: {_obstacle(last[name], couplings)}"
            ctx.refuse(PASS_NAME, last[name], reason)
    rearrange(couplings, orders)
    return {
        name: _heads_at(last[name], couplings, orders) or heads for name, heads in placed.items()
    }


def _is_parted(moved: Sequence[bool]) -> bool:
    """Whether heads of either kind lie together."""
    return sum(one != other for one, other in pairwise(moved)) <= 1


def _parting(node: ir.Node, moved: Sequence[bool], couplings: Couplings, orders: Orders) -> Orders:
    """Orders, and those of more sets under which the heads of an attention come apart."""
    found = list(orders)
    taken = [coupled for coupled, _ in orders]
    for coupled in couplings.sets:
        if any(coupled is each for each in taken):
            continue
        held = dict[int, list[int]]()
        for unit, head in units_of(node, coupled.units, couplings):
            held.setdefault(unit, []).append(head)
        now = _heads_at(node, couplings, found)
        if now is None or len(held) < len(coupled.units):
            continue
        kinds = [[moved[now[head]] for head in held[unit]] for unit in range(len(held))]
        order = sorted(range(len(held)), key=kinds.__getitem__)
        if order != sorted(order):
            found.append((coupled, np.array(order, np.int64)))
    return found


def _heads_at(node: ir.Node, couplings: Couplings, orders: Orders) -> list[int] | None:
    """The head of an attention that comes to each place; None where its heads stay."""
    tag = couplings.tags.get(node.outputs[0])
    if tag is None or tag.ndim < 3 or tag.shape[-3] == 1 or not tag.all():
        return None
    places = np.moveaxis(tag, -3, 0).reshape(tag.shape[-3], -1)
    owners = np.zeros(couplings.classes.size, np.int64)
    owners[places] = np.arange(len(places))[:, None]
    return [int(head) for head in owners[sources(couplings, orders)[places[:, 0]]]]


def _obstacle(node: ir.Node, couplings: Couplings) -> str:
    """Why the heads of an attention cannot be parted."""
    tag = couplings.tags.get(node.outputs[0], np.zeros(1, np.int64))
    for each in np.unique(couplings.classes[tag]).tolist():
        keeper, reason = couplings.stays.get(each, ("", ""))
        if keeper:
            return f"{reason} ({keeper})"
    return _GROUPS_APART


__all__ = ["PASS_NAME", "fuse_heads"]
