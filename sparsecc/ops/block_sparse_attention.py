"""BlockSparseAttention: softmax(scale Q Kᵀ + mask) V over the blocks of scores that are kept.

Which keys a query sees is said by a rule, by a set of blocks, and by a mask that is added; all
hold at once. A query that sees no key gives zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

from sparsecc.ops.attention_parts import (
    LEAST_OPSET,
    RANK,
    TOKENS,
    UNBOUNDED,
    check_blocks,
    counted,
    dims_of,
    given,
    scalar,
    shared_heads,
    sizes_of,
)
from sparsecc.ops.packed import constants
from sparsecc.ops.spec import Array, Dim, OpType

BASE = "BlockSparseAttention"
LEAST_SCORE = -1e38
"""A score that is not above hides its key, as the rule does: by a mask of ``-inf`` or the least
float32."""

RULE = ("left", "right", "sinks")
"""Query i sees key j when ``j <= i + right and (j >= i - left or j < sinks)``."""
_ATTRIBUTES = {"scale": OpSchema.AttrType.FLOAT} | dict.fromkeys(RULE, OpSchema.AttrType.INT)
_BLOCKS = {"index": "tensor(int32)", "grid": "tensor(int64)"}


def variant(*, blocks: bool = False, mask: bool = False) -> str:
    """The op type with or without an index of blocks, and a mask."""
    return BASE + "_blocks" * blocks + "_mask" * mask


def rule_of(node: ir.Node) -> tuple[int, int, int]:
    """``left``, ``right`` and ``sinks`` of a node."""
    left, right, sinks = (node.attributes[name].as_int() for name in RULE)
    return left, right, sinks


def seen_by_rule(queries: int, keys: int, left: int, right: int, sinks: int) -> NDArray[np.bool_]:
    """Which keys a rule lets queries see, ``[queries, keys]``."""
    i, j = np.arange(queries)[:, None], np.arange(keys)
    seen: NDArray[np.bool_] = (j <= i + right) & ((j >= i - left) | (j < sinks))
    return seen


def seen_by_blocks(
    index: NDArray[np.integer], grid: Sequence[int], queries: int, keys: int
) -> NDArray[np.bool_]:
    """Which keys the kept blocks let queries see, ``[heads or 1, queries, keys]``."""
    heads, down, across, rows, columns = grid
    kept = np.zeros(heads * down * across, bool)
    kept[index[index >= 0]] = True
    by_query = kept.reshape(heads, down, across)[:, np.arange(queries) // rows]
    return by_query[:, :, np.arange(keys) // columns]


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    left: int = UNBOUNDED,
    right: int = UNBOUNDED,
    sinks: int = 0,
    blocks: tuple[NDArray[np.integer], Sequence[int]] | None = None,
    mask: Array | None = None,
) -> Array:
    """Numpy meaning of the op, dense, in the dtype of its arguments.

    Args:
        q: ``[B, H, L, E]``.
        k: ``[B, H / g, S, E]``: g heads of queries share one of keys.
        v: As ``k``.
        scale: What products of queries and keys are multiplied by.
        left: Of the rule (:data:`RULE`).
        right: Of the rule.
        sinks: Of the rule.
        blocks: ``index`` and ``grid`` of the blocks that are kept; without them all are.
        mask: Is added, and spreads over ``[B, H, L, S]``.
    """
    k, v = (np.repeat(each, q.shape[1] // k.shape[1], axis=1) for each in (k, v))
    scores = scale * (q @ k.swapaxes(-1, -2))
    if mask is not None:
        scores = scores + mask
    seen = seen_by_rule(scores.shape[-2], scores.shape[-1], left, right, sinks)
    if blocks is not None:
        seen = seen & seen_by_blocks(*blocks, scores.shape[-2], scores.shape[-1])
    scores = np.where(seen & ~(scores <= LEAST_SCORE), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=LEAST_SCORE)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    result: Array = (weights @ v) / np.where(total > 0, total, 1)
    return result


def _rule() -> list[onnx.NodeProto]:
    """What the rule lets queries i see of keys j: by_rule [L, S]."""
    node = helper.make_node
    return [
        *(given(name, OpSchema.AttrType.INT) for name in RULE),
        node("Range", ["zero", "L", "one"], ["i"]),
        node("Range", ["zero", "S", "one"], ["j"]),
        node("Unsqueeze", ["i", "at1"], ["i_down"]),
        node("Add", ["i_down", "right"], ["furthest"]),
        node("Sub", ["i_down", "left"], ["nearest"]),
        node("Greater", ["j", "furthest"], ["ahead"]),
        node("Less", ["j", "nearest"], ["behind"]),
        node("Less", ["j", "sinks"], ["sink"]),
        node("Not", ["sink"], ["no_sink"]),
        node("And", ["behind", "no_sink"], ["left_out"]),
        node("Or", ["ahead", "left_out"], ["unseen"]),
        node("Not", ["unseen"], ["by_rule"]),
    ]


def _kept_blocks() -> list[onnx.NodeProto]:
    """What the blocks let be seen: by_blocks [heads or 1, L, S].

    The positions of blocks are scattered into one place more than there are: -1 is that.
    """
    node = helper.make_node
    no = numpy_helper.from_array(np.zeros(1, np.int32))
    yes = numpy_helper.from_array(np.ones(1, np.int32))
    return [
        *constants(at5=[5], one_more=[1]),
        node("Slice", ["grid", "at0", "at3"], ["blocks_shape"]),
        node("ReduceProd", ["blocks_shape"], ["blocks"], keepdims=1),
        node("Add", ["blocks", "one_more"], ["places"]),
        node("ConstantOfShape", ["places"], ["none_kept"], value=no),
        node("Shape", ["index"], ["index_shape"]),
        node("ConstantOfShape", ["index_shape"], ["kept_ones"], value=yes),
        node("Cast", ["index"], ["index64"], to=TensorProto.INT64),
        node("ScatterElements", ["none_kept", "index64", "kept_ones"], ["kept_places"]),
        node("Slice", ["kept_places", "at0", "blocks"], ["kept_flat"]),
        node("Reshape", ["kept_flat", "blocks_shape"], ["kept"]),
        *constants(at4=[4]),
        node("Slice", ["grid", "at3", "at4"], ["rows"]),
        node("Slice", ["grid", "at4", "at5"], ["columns"]),
        node("Div", ["i", "rows"], ["block_of_query"]),
        node("Div", ["j", "columns"], ["block_of_key"]),
        node("Cast", ["kept"], ["kept_flags"], to=TensorProto.BOOL),
        node("Gather", ["kept_flags", "block_of_key"], ["kept_of_key"], axis=2),
        node("Gather", ["kept_of_key", "block_of_query"], ["by_blocks"], axis=1),
    ]


def _softmax(seen: str, scores: str) -> list[onnx.NodeProto]:
    """Weights of the keys that are seen, and zeros for a query that sees none.

    What hides is so low that beside any score that does not it is nothing, and still a number: a
    query that sees no key has equal shares, which the last choice takes away.
    """
    node = helper.make_node
    return [
        scalar("least", np.float32(LEAST_SCORE)),
        scalar("hidden", np.finfo(np.float32).min),
        scalar("nothing", np.float32(0)),
        node("LessOrEqual", [scores, "least"], ["too_low"]),
        node("Not", ["too_low"], ["reached"]),
        node("And", ["reached", seen], ["visible"]),
        node("Where", ["visible", scores, "hidden"], ["seen_scores"]),
        node("Softmax", ["seen_scores"], ["shares"], axis=-1),
        node("Where", ["visible", "shares", "nothing"], ["weights"]),
        node("MatMul", ["weights", "V_each"], ["Y"]),
    ]


def _body(blocks: bool, mask: bool) -> list[onnx.NodeProto]:
    node, seen, scores = helper.make_node, "by_rule", "scaled"
    nodes = [
        *counted(),
        *shared_heads("K", "V"),
        *_rule(),
        given("scale", OpSchema.AttrType.FLOAT),
        node("Mul", ["Q", "scale"], ["Q_scaled"]),
        node("Transpose", ["K_each"], ["K_turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["Q_scaled", "K_turned"], [scores]),
    ]
    if mask:
        nodes.append(node("Add", [scores, "mask"], ["masked"]))
        scores = "masked"
    if blocks:
        nodes += [*_kept_blocks(), node("And", [seen, "by_blocks"], ["by_both"])]
        seen = "by_both"
    return nodes + _softmax(seen, scores)


def _check(blocks: bool, mask: bool, node: ir.Node) -> None:
    named = dict(zip(_inputs(blocks, mask), node.inputs, strict=True))
    for name in (*TOKENS, *(("mask",) if mask else ())):
        value = named[name]
        if value is not None and value.dtype not in (None, ir.DataType.FLOAT):
            raise ValueError(f"{name} is {value.dtype}, expected float32")
    _check_rule(node)
    sizes = sizes_of({name: dims_of(named[name]) for name in TOKENS})
    if blocks:
        check_blocks(named["index"], named["grid"], sizes)
    if mask:
        _check_mask(dims_of(named["mask"]), sizes)


def _check_rule(node: ir.Node) -> None:
    kinds = dict.fromkeys(RULE, ir.AttributeType.INT) | {"scale": ir.AttributeType.FLOAT}
    for name, kind in kinds.items():
        if node.attributes[name].type != kind:
            raise ValueError(f"the attribute {name} is no {kind.name.lower()}")
    scale = np.float32(node.attributes["scale"].as_float())
    rule = {name: node.attributes[name].as_int() for name in RULE}
    if not np.isfinite(scale):
        raise ValueError(f"the scale is {scale}")
    if any(abs(number) > UNBOUNDED for number in rule.values()) or rule["sinks"] < 0:
        raise ValueError(f"the rule {rule} has numbers beyond 32 bits, or less than no sinks")


def _check_mask(mask: list[Dim] | None, sizes: Sequence[int | None]) -> None:
    if mask is None:
        return
    if not 1 <= len(mask) <= RANK:
        raise ValueError(f"the mask has the shape {mask}, expected one to four dimensions")
    for size, dim in zip(reversed(sizes), reversed(mask), strict=False):
        if isinstance(dim, int) and size is not None and dim not in (1, size):
            raise ValueError(f"the mask {mask} does not spread over {list(sizes)}")


def _infer(node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    others = {name: dims_of(value) for name, value in zip("KV", node.inputs[1:3], strict=True)}
    sizes_of({"Q": list(x), **others})
    return list(x)


def _inputs(blocks: bool, mask: bool) -> dict[str, str]:
    return (
        dict.fromkeys(TOKENS, "T") | (_BLOCKS if blocks else {}) | ({"mask": "T"} if mask else {})
    )


ATTENTIONS: dict[str, OpType] = {
    variant(blocks=blocks, mask=mask): OpType(
        doc="Y = softmax(scale · Q Kᵀ + mask) V over kept blocks of scores.",
        inputs=_inputs(blocks, mask),
        attributes=_ATTRIBUTES,
        body=partial(_body, blocks, mask),
        check=partial(_check, blocks, mask),
        infer=_infer,
        least_opset=LEAST_OPSET,
    )
    for blocks in (False, True)
    for mask in (False, True)
}
"""Every attention of the domain."""
