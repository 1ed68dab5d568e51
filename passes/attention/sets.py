"""Tokens that see exactly those of their own group: each group is attended to by itself. Exact.

Windows over a grid, shifted or not, and texts packed one after the other are such groups. They are
gathered into sets of one size, as DSVT does with the voxels of its windows, and the sets are the
batch of an attention without the scores between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes.attention.heads import Heads
from sparsecc.passes.fuse.terms import Terms
from sparsecc.passes.tape import Tape

_ROWS_AT_ONCE = 256
_TURNED = (0, 2, 1, 3)
"""Tokens before heads, or back."""
_KEY = "sparsecc.sets"
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Sets:
    """Groups packed into sets of one size.

    Attributes:
        tokens: ``[sets, size]``: which one is in each slot; slots that are left over repeat the
            first of their set.
        slots: ``[tokens]``: where each one is, counted through all sets.
        seen: ``[sets, size, size]``: which slots see each other; none sees one that is left over.
    """

    tokens: Places
    slots: Places
    seen: Flags

    @property
    def in_order(self) -> bool:
        """Whether slots are the tokens as they come, so that nothing has to be moved."""
        return np.array_equal(self.tokens.reshape(-1), np.arange(len(self.slots)))


@dataclass(frozen=True)
class Made:
    """An attention over sets that took the place of another.

    Attributes:
        sets: Of the tokens.
        dims: Of the queries before: batch, heads, tokens and features.
    """

    sets: Sets
    dims: Terms


def sets_of(seen: Flags) -> Sets | None:
    """The sets of tokens that see their own group; None where what they see is no grouping.

    Args:
        seen: ``[queries, keys]``.
    """
    groups = _groups(seen)
    if groups is None or not groups.any():  # one group is all there is
        return None
    tokens, real = _packed(groups)
    slots = np.empty(len(groups), np.int64)
    slots[tokens[real]] = np.flatnonzero(real)
    of_slot = groups[tokens]
    return Sets(tokens, slots, (of_slot[:, :, None] == of_slot[:, None]) & real[:, None])


def _groups(seen: Flags) -> Places | None:
    """For each token the first of its group."""
    if not seen.size or seen.shape[0] != seen.shape[1]:
        return None
    first: Places = seen.argmax(axis=1)
    for start in range(0, len(seen), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        if not np.array_equal(first[rows, None] == first, seen[rows]):
            return None
    return first


def _packed(groups: Places) -> tuple[Places, Flags]:
    """Tokens of each set, and which slots they fill.

    The largest groups are first to choose, and each takes the first set that has room.
    """
    names, sizes = np.unique(groups, return_counts=True)
    size = int(sizes.max())
    room = np.full(len(names), size)
    place = np.empty(len(names), np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        place[group] = np.argmax(room >= sizes[group])
        room[place[group]] -= sizes[group]
    set_of = place[np.searchsorted(names, groups)]
    order = np.lexsort((groups, set_of))
    filled = np.bincount(set_of)
    real = np.arange(size) < filled[:, None]
    tokens = np.repeat(order[np.cumsum(filled) - filled][:, None], size, axis=1)
    tokens[real] = order
    return tokens, real


def mask_of(sets: Sets, added: Sequence[Floats]) -> Floats | None:
    """What is added to scores, ``[sets or 1, heads or 1, size, size]``; None where nothing is.

    Args:
        sets: Of the tokens.
        added: To the scores before; each spreads over ``[heads, tokens, tokens]``.
    """
    long = len(sets.slots)
    total: Floats = np.zeros((1, 1, 1, 1), np.float32)
    for array in added:
        whole = np.broadcast_to(array, (*array.shape[:-2], long, long)).reshape(-1, long, long)
        total = total + whole[:, sets.tokens[:, :, None], sets.tokens[:, None]].swapaxes(0, 1)
    total = np.where(sets.seen[:, None], total, np.float32(-np.inf))
    if not total.any():
        return None
    return total[:1] if (total == total[:1]).all() else total


def put(
    sets: Sets, mask: Floats | None, heads: Sequence[Heads], scale: float, tape: Tape
) -> ir.Value:
    """Attention over sets, ``[batch, heads, tokens, features]``, by nodes on a tape.

    Args:
        sets: Of the tokens.
        mask: As :func:`mask_of` gave it.
        heads: Queries, keys and values.
        scale: What products of queries and keys are multiplied by.
        tape: Of nodes.
    """
    turned = [_tokens_first(each, tape) for each in heads]
    inputs = [_gathered(each, sets, tape) for each in turned]
    if mask is not None:
        inputs.append(_for_each(turned[0], heads[0].dims[0], mask, tape))
    rule = dict(zip(ops.RULE, (ops.UNBOUNDED, ops.UNBOUNDED, 0), strict=True))
    op_type = ops.attention_variant(mask=mask is not None)
    result = tape.op(op_type, *inputs, scale=scale, **rule)
    _note(result, Made(sets, heads[0].dims))
    width = [int(str(heads[0].dims[axis])) for axis in (1, 3)]
    rows = tape.op("Reshape", tape.op("Transpose", result, perm=_TURNED), tape.ints(0, 0, -1))
    back = tape.op("Reshape", rows, tape.ints(-1, sets.tokens.size, *width))
    if not sets.in_order:
        back = tape.op("Gather", back, tape.weight("slots", sets.slots), axis=1)
    return tape.op("Transpose", back, perm=_TURNED)


def _note(result: ir.Value, made: Made) -> None:
    """Say what nothing else says of an op of ours in between."""
    result.dtype = ir.DataType.FLOAT
    node = result.producer()
    assert node is not None  # a tape has made it
    node.meta[_KEY] = made


def made_of(node: ir.Node) -> Made | None:
    """What a node attends to, if that is sets."""
    made = node.meta.get(_KEY)
    return made if isinstance(made, Made) else None


def _tokens_first(heads: Heads, tape: Tape) -> ir.Value:
    """``[batch, tokens, heads, features]``, best as they lie."""
    if heads.split:
        return tape.op("Transpose", heads.put(tape), perm=_TURNED)
    batch, head, token, feature = heads.order
    order = (batch, token, head, feature)
    in_place = order == tuple(range(len(order)))
    return heads.value if in_place else tape.op("Transpose", heads.value, perm=order)


def _gathered(value: ir.Value, sets: Sets, tape: Tape) -> ir.Value:
    """Tokens before heads, as heads before slots; samples and sets are one dimension."""
    if not sets.in_order:
        value = tape.op("Gather", value, tape.weight("tokens", sets.tokens.reshape(-1)), axis=1)
    by_set = tape.op("Reshape", value, tape.ints(-1, sets.tokens.shape[1], 0, 0))
    return tape.op("Transpose", by_set, perm=_TURNED)


def _for_each(value: ir.Value, batch: object, mask: Floats, tape: Tape) -> ir.Value:
    """A mask of sets for each sample of a batch."""
    if len(mask) == 1:
        return tape.weight("mask", mask)
    if isinstance(batch, int):
        return tape.weight("mask", np.tile(mask, (batch, 1, 1, 1)))
    samples = tape.op("Gather", tape.op("Shape", value), tape.ints(0))
    repeats = tape.op("Concat", samples, tape.ints(1, 1, 1), axis=0)
    return tape.op("Tile", tape.weight("mask", mask), repeats)
