"""BlockSparseAttention: softmax(scale Q Kᵀ + mask) V over the blocks of scores that are kept.

Which keys a query sees is said by a rule, by a set of blocks, and by a mask that is added; all
hold at once. A query that sees no key gives zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

from sparsecc.ops.packed import constants
from sparsecc.ops.spec import Array, Dim, OpType

BASE = "BlockSparseAttention"
LEAST_OPSET = 13
UNBOUNDED = 2**31 - 1
"""``left`` or ``right`` of a rule that leaves no key out on that side."""
LEAST_SCORE = -1e38
"""A score that is not above hides its key, as the rule does: by a mask of ``-inf`` or the least
float32."""

RULE = ("left", "right", "sinks")
"""Query i sees key j when ``j <= i + right and (j >= i - left or j < sinks)``."""
_ATTRIBUTES = {"scale": OpSchema.AttrType.FLOAT} | dict.fromkeys(RULE, OpSchema.AttrType.INT)
_TOKENS = ("Q", "K", "V")
_BLOCKS = {"index": "tensor(int32)", "grid": "tensor(int64)"}
_RANK = 4
_GRID = 5


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


def _given(name: str) -> list[onnx.NodeProto]:
    """An attribute as a scalar under its own name."""
    number = name == "scale"
    kind = onnx.AttributeProto.FLOAT if number else onnx.AttributeProto.INT
    constant = helper.make_node("Constant", [], [name])
    value = "value_float" if number else "value_int"
    constant.attribute.append(onnx.AttributeProto(name=value, ref_attr_name=name, type=kind))
    return [constant]


def _scalar(name: str, value: np.generic) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))


def _sizes() -> list[onnx.NodeProto]:
    """Numbers of heads, queries and keys; queries i and keys j counted."""
    node, nodes = helper.make_node, []
    for name, source, axis in (("H", "Q", 1), ("L", "Q", 2), ("G", "K", 1), ("S", "K", 2)):
        at, end = f"at{axis}", f"at{axis + 1}"
        nodes.append(node("Slice", [f"{source}_shape", at, end], [f"{name}_one"]))
        nodes.append(node("Squeeze", [f"{name}_one", "at0"], [name]))
    return [
        *constants(at0=[0], at1=[1], at2=[2], at3=[3], last=[-1], column=[-1, 1]),
        *(_scalar(name, np.int64(value)) for name, value in (("zero", 0), ("one", 1))),
        *(node("Shape", [name], [f"{name}_shape"]) for name in "QK"),
        *nodes,
        node("Range", ["zero", "L", "one"], ["i"]),
        node("Range", ["zero", "S", "one"], ["j"]),
        node("Unsqueeze", ["i", "at1"], ["i_down"]),
    ]


def _shared_heads() -> list[onnx.NodeProto]:
    """One head of keys and values for each of queries: K_each and V_each."""
    node = helper.make_node
    return [
        node("Div", ["H", "G"], ["sharing"]),
        node("Range", ["zero", "H", "one"], ["heads"]),
        node("Div", ["heads", "sharing"], ["their_heads"]),
        *(node("Gather", [name, "their_heads"], [f"{name}_each"], axis=1) for name in "KV"),
    ]


def _rule() -> list[onnx.NodeProto]:
    """What the rule lets be seen: by_rule [L, S]."""
    node = helper.make_node
    return [
        *(each for name in RULE for each in _given(name)),
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
        node("Gather", ["kept", "block_of_query"], ["kept_of_query"], axis=1),
        node("Gather", ["kept_of_query", "block_of_key"], ["kept_of_pair"], axis=2),
        node("Cast", ["kept_of_pair"], ["by_blocks"], to=TensorProto.BOOL),
    ]


def _softmax(seen: str, scores: str) -> list[onnx.NodeProto]:
    """Weights of the keys that are seen, and zeros for a query that sees none."""
    node = helper.make_node
    return [
        _scalar("least", np.float32(LEAST_SCORE)),
        _scalar("hidden", np.float32(-np.inf)),
        _scalar("level", np.float32(0)),
        node("LessOrEqual", [scores, "least"], ["too_low"]),
        node("Not", ["too_low"], ["reached"]),
        node("And", ["reached", seen], ["visible"]),
        node("Cast", ["visible"], ["ones"], to=TensorProto.FLOAT),
        node("ReduceSum", ["ones", "last"], ["count"], keepdims=1),
        node("Greater", ["count", "level"], ["any"]),
        node("Where", ["any", "hidden", "level"], ["unseen_score"]),
        node("Where", ["visible", scores, "unseen_score"], ["seen_scores"]),
        node("Softmax", ["seen_scores"], ["shares"], axis=-1),
        node("Where", ["visible", "shares", "level"], ["weights"]),
        node("MatMul", ["weights", "V_each"], ["Y"]),
    ]


def _body(blocks: bool, mask: bool) -> list[onnx.NodeProto]:
    node, seen, scores = helper.make_node, "by_rule", "scaled"
    nodes = [
        *_sizes(),
        *_shared_heads(),
        *_rule(),
        *_given("scale"),
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
    for name in (*_TOKENS, *(("mask",) if mask else ())):
        value = named[name]
        if value is not None and value.dtype not in (None, ir.DataType.FLOAT):
            raise ValueError(f"{name} is {value.dtype}, expected float32")
    _check_rule(node)
    sizes = _sizes_of({name: _dims(named[name]) for name in _TOKENS})
    if blocks:
        _check_blocks(named["index"], named["grid"], sizes)
    if mask:
        _check_mask(_dims(named["mask"]), sizes)


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


def _dims(value: ir.Value | None) -> list[Dim] | None:
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _sizes_of(tokens: dict[str, list[Dim] | None]) -> list[int | None]:
    """``[B, H, L, S]`` as far as Q, K and V tell; ValueError if they disagree."""
    known = {name: dims for name, dims in tokens.items() if dims is not None}
    for name, dims in known.items():
        if len(dims) != _RANK:
            raise ValueError(f"{name} has the shape {dims}, expected [B, heads, tokens, features]")
    q, k, v = (known.get(name, [None] * _RANK) for name in _TOKENS)
    shapes = ", ".join(f"{name} {dims}" for name, dims in known.items())
    for axis, alike in ((0, (q, k, v)), (1, (k, v)), (2, (k, v)), (3, (q, k, v))):
        if len({dims[axis] for dims in alike if isinstance(dims[axis], int)}) > 1:
            raise ValueError(f"{shapes}: they disagree in dimension {axis}")
    batch, heads, queries, keys, shared = (
        next((dims[axis] for dims in alike if isinstance(dims[axis], int)), None)
        for axis, alike in ((0, (q, k, v)), (1, (q,)), (2, (q,)), (2, (k, v)), (1, (k, v)))
    )
    if shared == 0 or (isinstance(heads, int) and isinstance(shared, int) and heads % shared):
        raise ValueError(f"{shapes}: {heads} heads of queries for {shared} of keys")
    return [size if isinstance(size, int) else None for size in (batch, heads, queries, keys)]


def _check_blocks(
    index: ir.Value | None, grid: ir.Value | None, sizes: Sequence[int | None]
) -> None:
    if grid is None or grid.const_value is None:
        raise ValueError("the input 'grid' is not constant")
    numbers = grid.const_value.numpy()
    if numbers.dtype != np.int64 or numbers.shape != (_GRID,) or min(numbers) < 0:
        raise ValueError(f"the grid is {numbers.dtype} {numbers.tolist()}, expected five of int64")
    heads, down, across, rows, columns = (int(number) for number in numbers)
    if min(heads, rows, columns) < 1 or heads * down * across > UNBOUNDED:
        raise ValueError(f"the grid {numbers.tolist()} is empty, or too large for an index")
    _, of_queries, queries, keys = sizes
    if heads != 1 and of_queries not in (None, heads):
        raise ValueError(f"the grid has {heads} heads, the queries have {of_queries}")
    for what, blocks, block, size in (
        ("queries", down, rows, queries),
        ("keys", across, columns, keys),
    ):
        if size is not None and blocks != math.ceil(size / block):
            raise ValueError(f"{blocks} blocks of {block} do not cover {size} {what}")
    if index is not None and index.const_value is not None:
        check_index(index.const_value.numpy(), heads * down * across)


def check_index(index: NDArray[np.integer], blocks: int) -> None:
    """Check that positions ascend inside the grid, with nothing but -1 behind (ValueError)."""
    if index.dtype != np.int32 or index.ndim != 1:
        raise ValueError(f"the index is {index.dtype} of {index.ndim} dimensions, expected int32")
    left = index[: int(np.count_nonzero(index != -1))].astype(np.int64)
    if len(left) and (left[0] < 0 or left[-1] >= blocks or np.any(np.diff(left) <= 0)):
        raise ValueError(f"block positions are not ascending inside the grid of {blocks}")


def _check_mask(mask: list[Dim] | None, sizes: Sequence[int | None]) -> None:
    if mask is None:
        return
    if not 1 <= len(mask) <= _RANK:
        raise ValueError(f"the mask has the shape {mask}, expected one to four dimensions")
    for size, dim in zip(reversed(sizes), reversed(mask), strict=False):
        if isinstance(dim, int) and size is not None and dim not in (1, size):
            raise ValueError(f"the mask {mask} does not spread over {list(sizes)}")


def _infer(node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    others = {name: _dims(value) for name, value in zip("KV", node.inputs[1:3], strict=True)}
    _sizes_of({"Q": list(x), **others})
    return list(x)


def _inputs(blocks: bool, mask: bool) -> dict[str, str]:
    return (
        dict.fromkeys(_TOKENS, "T") | (_BLOCKS if blocks else {}) | ({"mask": "T"} if mask else {})
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
