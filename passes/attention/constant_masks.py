"""Attention whose mask hides keys in every run skips them. Exact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.ops.attention_parts import LEAST_OPSET
from sparsecc.ops.block_sparse_attention import variant
from sparsecc.passes.attention import masks
from sparsecc.passes.attention.estimate import dense_ms, kept_ms, sets_ms, size_of, why_not
from sparsecc.passes.attention.heads import Heads, heads_of
from sparsecc.passes.attention.masks import Known, Masks
from sparsecc.passes.attention.match import MASKED, Attention, Term, match
from sparsecc.passes.attention.rules import BLIND, Kept, Rule, grid_of, take_apart
from sparsecc.passes.attention.sets import Sets, mask_of, put
from sparsecc.passes.attention.structure import Structure
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, is_op, nodes_of
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Terms
from sparsecc.passes.regions.attention import attention
from sparsecc.passes.tape import Tape
from sparsecc.targets import Target

MOST_SCORES = 1 << 30
"""Of all heads: a larger constant mask is not read."""
_OF_HEAD = 3
"""Dimensions of a mask behind the batch."""
FEW = 64
"""Queries, and keys, of a masked attention that the op is quicker for whatever it skips."""
LEAST_GAIN = 1.1
"""Estimated gain under which attention stays dense: estimates are no better than that."""


@dataclass(frozen=True)
class _Parts:
    """One attention that is to skip keys.

    Attributes:
        found: As it stands.
        heads: Queries, keys and values.
        kept: What its constant mask leaves.
        rest: What masks or is added besides.
        sets: Of tokens, where it is quicker to attend to each by itself.
        note: Why there are none although there could be, or "".
    """

    found: Attention
    heads: tuple[Heads, Heads, Heads]
    kept: Kept
    rest: tuple[Term, ...]
    sets: Sets | None = None
    note: str = ""

    @property
    def scale(self) -> float:
        """On the scores, whatever multiplied queries and keys before."""
        return math.prod((self.found.scale, *(each.scale for each in self.heads[:2])))


class ConstantMasks(Pass):
    """A mask that is constant, or computed from positions alone, becomes a rule or blocks.

    Causal, sliding and streaming masks, those of Longformer and any other that leaves blocks of
    scores out: the op that takes their place touches only kept blocks. Where tokens see those of
    their own group alone, it attends to sets of them, if that is quicker. What the estimate finds
    no quicker stays dense, unless queries and keys are few: the op is then quicker than the nodes
    that it stands for, with any mask.
    """

    name: ClassVar[str] = "constant-masks"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace every such attention of the main graph; none where no target tells times."""
        if ctx.target is None:
            return False
        reader, modified = _Reader(model), False
        for softmax in list(nodes_of(model, "Softmax")):
            found = match(softmax) if softmax.graph is model.graph else None
            parts = reader.parts(found, ctx.target) if isinstance(found, Attention) else found
            if isinstance(parts, str):
                ctx.refuse(self.name, softmax, parts)
            elif parts is not None:
                if parts.note:
                    ctx.refuse(self.name, softmax, parts.note)
                _rewrite(parts)
                model.opset_imports[ops.DOMAIN] = ops.VERSION
                modified = True
        return modified


class _Reader:
    """Reads attentions of one model; what several have in common is read once."""

    def __init__(self, model: ir.Model) -> None:
        self._shapes = Shapes(model)
        self._structure = Structure(self._shapes)
        self._is_sparse = any(ops.is_sparse(node) for node in model.graph)
        self._opset = model.opset_imports.get("", 0)
        self._kept: dict[tuple[object, ...], Kept | str] = {}

    def parts(self, found: Attention, target: Target) -> _Parts | str | None:
        """What the op is to have; why there is none, or None where nothing masks."""
        if not found.terms:
            return None
        if self._opset < LEAST_OPSET:
            return f"the op that skips keys needs opset {LEAST_OPSET}, the model has {self._opset}"
        if found.product.outputs[0].dtype != ir.DataType.FLOAT:
            return "attention in another type than float32"
        if not all(is_op(reader, "Shape") for reader in _readers(found)):
            return "scores that others read too"
        heads = self._heads(found)
        if isinstance(heads, str):
            return heads
        q, k, _ = heads
        dims = (*q.dims[:3], k.dims[2])
        parts = self._skipping(found, heads, dims, target)
        if isinstance(parts, _Parts) or parts == BLIND or not _are_few(dims):
            return parts
        whole = _Parts(found, heads, Kept(Rule()), tuple(found.terms))
        return parts if self._has_step(found) else self._wrong(whole, dims) or whole

    def _skipping(
        self, found: Attention, heads: tuple[Heads, Heads, Heads], dims: Terms, target: Target
    ) -> _Parts | str:
        """The op that skips the most for the time it takes."""
        known = Masks(self._structure, self._shapes, *dims[2:]).known(found.terms)
        masked = self._masked(found, known, dims)
        if isinstance(masked, str):
            return masked
        kept, rest = masked
        parts = _Parts(found, heads, kept, rest)
        wrong = self._wrong(parts, dims)
        if wrong:
            return wrong
        size = size_of(dims, heads[0].dims[3])
        wrong = why_not(size.dim, target)
        if wrong:
            return wrong
        by_blocks = kept_ms(size, kept.scores(size.queries, size.keys), target).ms
        dense = dense_ms(size, target).ms
        note = None
        if kept.sets is not None:
            by_sets = sets_ms(size, kept.sets, target).ms
            note = _against_sets(parts, by_sets, by_blocks, target)
            if note is None and by_sets * LEAST_GAIN <= dense:
                return replace(parts, sets=kept.sets)
        if by_blocks * LEAST_GAIN > dense:
            return f"estimated {by_blocks:.3f} ms by kept blocks, {dense:.3f} ms dense"
        return replace(parts, note=note or "")

    def _wrong(self, parts: _Parts, dims: Terms) -> str | None:
        """Why the op cannot have what masks at run time."""
        wrong = self._misfit(parts.rest, dims, parts.found.is_flat)
        if wrong:
            return wrong
        shared = bool(_readers(parts.found))
        if shared and _depends([term.value for term in parts.rest], parts.found.nodes):
            return "scores that a mask is made from"
        return None

    def _has_step(self, found: Attention) -> bool:
        """Whether regions beside layers that skip zeros compute it as it is."""
        return self._is_sparse and attention(found.softmax, self._shapes) is not None

    def _heads(self, found: Attention, *, shared: bool = True) -> tuple[Heads, Heads, Heads] | str:
        query, key = found.product.inputs
        parts = (
            heads_of(query, self._shapes),
            heads_of(key, self._shapes, turned=True, shared=shared),
            heads_of(found.context.inputs[1], self._shapes, shared=shared, scales=False),
        )
        known = [part for part in parts if isinstance(part, Heads)]
        if len(known) < len(parts):
            return next(part for part in parts if isinstance(part, str))
        q, k, v = known
        if shared and k.dims[1] != v.dims[1]:
            return self._heads(found, shared=False)
        return _disagreement(q, k, v) or (q, k, v)

    def _masked(
        self, found: Attention, known: Known, dims: Terms
    ) -> tuple[Kept, tuple[Term, ...]] | str:
        """What the constant part of a mask leaves, and the rest of it."""
        queries, keys = dims[2:]
        arrays = {term: masks.numbers(term) for term in known.rest} if _is_readable(dims) else {}
        fixed = {
            term: array
            for term, array in arrays.items()
            if array is not None and array.min(initial=0) <= MASKED
        }
        rest = tuple(term for term in known.rest if term not in fixed)
        if not fixed:
            if not known.rule.hides:
                given = any(constant(term.value) is None for term in rest)
                return "a mask that depends on the inputs" if given else "a mask that hides no key"
            seen = known.rule.sees_any(queries, keys)
            return (Kept(known.rule), rest) if seen else BLIND
        key = (*fixed, known.rule, found.guarded, *dims[1:])
        if key not in self._kept:
            found_masks = list(fixed.values())
            self._kept[key] = _together(found_masks, known.rule, dims, found.guarded)
        kept = self._kept[key]
        return kept if isinstance(kept, str) else (kept, rest)

    def _misfit(self, rest: Sequence[Term], dims: Terms, flat: bool) -> str | None:
        """Why what masks at run time cannot be added to scores of four dimensions."""
        for term in rest:
            sizes = self._shapes.terms(term.value)
            wanted = ir.DataType.FLOAT if term.shown is None else ir.DataType.BOOL
            if sizes is None or term.value.dtype != wanted or not 1 <= len(sizes) <= len(dims):
                return "a mask of unknown shape or type"
            pairs = list(zip(reversed(sizes), reversed(dims), strict=False))
            if flat and len(sizes) > 2 and sizes[0] != 1:
                return "a mask of batch and heads in one dimension"
            if any(have not in (1, want) for have, want in pairs):
                return "a mask of a shape that is not known to be that of the scores"
        return None


def _are_few(dims: Terms) -> bool:
    """Whether queries and keys are so few that the op alone is quicker than the nodes."""
    return all(isinstance(size, int) and size <= FEW for size in dims[2:])


def _against_sets(parts: _Parts, by_sets: float, by_blocks: float, target: Target) -> str | None:
    """Why blocks of scores are kept where tokens could be in sets."""
    why = None
    if not all(map(_is_fixed, parts.rest)):
        why = "a mask that depends on the inputs"
    elif by_sets * LEAST_GAIN > by_blocks:
        why = f"estimated {by_sets:.3f} ms, {by_blocks:.3f} ms by kept blocks"
    elif target.stands_alone and not isinstance(parts.heads[0].dims[0], int):
        why = "an open batch, for which no mask is repeated without ONNX Runtime"
    return why and f"not in sets of tokens: {why}"


def _is_fixed(term: Term) -> bool:
    """Whether what a term adds is constant, and the same for all samples of a batch."""
    array = masks.numbers(term)
    return array is not None and array.shape[:-_OF_HEAD] in ((), (1,))


def _is_readable(dims: Terms) -> bool:
    """Whether queries and keys are numbers, and their scores few enough to be looked at."""
    sizes = [size for size in dims[1:] if isinstance(size, int)]
    return len(sizes) == len(dims[1:]) and math.prod(sizes) <= MOST_SCORES


def _readers(found: Attention) -> list[ir.Node | None]:
    """What else reads values inside; None is the outside of the model."""
    values = [value for node in found.nodes[:-1] for value in node.outputs]
    outside = [node for value in values for node in value.consumers() if node not in found.nodes]
    return [*outside, *(None for value in values if value.is_graph_output())]


def _depends(values: Sequence[ir.Value], nodes: Sequence[ir.Node]) -> bool:
    """Whether any of these values is made from what any of these nodes makes."""
    inside, seen, waiting = set(nodes), set[ir.Node](), list(values)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [value for value in node.inputs if value is not None]
    return not inside.isdisjoint(seen)


def _disagreement(q: Heads, k: Heads, v: Heads) -> str | None:
    """Why three operands are not those of one attention."""
    whole = [each.dims[axis] for each in (q, k, v) for axis in (1, 3)]
    if not all(isinstance(size, int) and size > 0 for size in whole):
        return "heads whose number or size is not known"
    if len({each.dims[0] for each in (q, k, v)}) > 1 or k.dims[2] != v.dims[2]:
        return "queries, keys and values that are not known to belong together"
    if len({each.dims[3] for each in (q, k, v)}) > 1:
        return "values of another size than keys"
    if k.dims[1] != v.dims[1] or int(str(q.dims[1])) % int(str(k.dims[1])):
        return "heads of keys that are not shared evenly"
    return None


def _together(
    arrays: Sequence[NDArray[np.float32]], rule: Rule, dims: Terms, zeros: bool
) -> Kept | str:
    """What masks that are added, and a rule besides, leave."""
    heads, queries, keys = (int(str(size)) for size in dims[1:])
    total = np.where(rule.seen(queries, keys), 0, -np.inf).astype(np.float32)[None]
    for array in arrays:
        if array.ndim == len(dims) and len(array) == 1:
            array = array[0]
        if array.ndim == len(dims):
            return "a mask that differs between the samples of a batch"
        if any(
            have not in (1, want)
            for have, want in zip(array.shape[::-1], (keys, queries, heads), strict=False)
        ):
            return "a mask of another shape than the scores"
        total = total + array
    return take_apart(total, zeros=zeros)


def _rewrite(parts: _Parts) -> None:
    """Put the op in the place of an attention; dead code is for others to remove."""
    tape = Tape(parts.found.nodes[-1])
    y = _over_blocks(parts, tape) if parts.sets is None else _over_sets(parts, parts.sets, tape)
    if parts.found.is_flat:
        tape.op("Squeeze", tape.op("Reshape", y, tape.ints(-1, 1, 0, 0)), tape.ints(1))
    tape.finish()


def _over_sets(parts: _Parts, sets: Sets, tape: Tape) -> ir.Value:
    rest = [masks.numbers(term) for term in parts.rest]
    added = [array for array in (parts.kept.mask, *rest) if array is not None]
    return put(sets, mask_of(sets, added), parts.heads, parts.scale, tape)


def _over_blocks(parts: _Parts, tape: Tape) -> ir.Value:
    kept = parts.kept
    inputs = [each.put(tape) for each in parts.heads]
    if kept.blocks is not None:
        index, grid = grid_of(kept.blocks)
        inputs += [tape.weight("index", index), tape.weight("grid", grid)]
    rest = list(parts.rest)
    if kept.mask is not None:
        rest.append(Term(tape.weight("mask", kept.mask)))
    if rest:
        inputs.append(masks.put(rest, tape))
    rule = dataclasses.asdict(kept.rule)
    op_type = variant(blocks=kept.blocks is not None, mask=bool(rest))
    return tape.op(op_type, *inputs, scale=parts.scale, **rule)
