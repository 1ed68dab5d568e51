"""What the ops of attention have in common: their operands, the grid of blocks, parts of bodies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.defs import OpSchema

from sparsecc.ops.packed import constants
from sparsecc.ops.spec import Dim

LEAST_OPSET = 13
"""Of the bodies: the oldest whose Softmax and ReduceSum they are written for."""
UNBOUNDED = 2**31 - 1
"""The largest number of an index, and of a rule: there it leaves no key out on that side."""
TOKENS = ("Q", "K", "V")
RANK = 4
_GRID = 5
KINDS = {
    OpSchema.AttrType.FLOAT: ("value_float", onnx.AttributeProto.FLOAT),
    OpSchema.AttrType.INT: ("value_int", onnx.AttributeProto.INT),
    OpSchema.AttrType.INTS: ("value_ints", onnx.AttributeProto.INTS),
}
"""Kinds of attributes: the field of a Constant that takes one over, and its number."""


def given(name: str, kind: OpSchema.AttrType) -> onnx.NodeProto:
    """An attribute as a constant under its own name: a scalar, or a vector of several."""
    field, code = KINDS[kind]
    constant = helper.make_node("Constant", [], [name])
    value = onnx.AttributeProto(name=field, ref_attr_name=name, type=code)
    constant.attribute.append(value)
    return constant


def scalar(name: str, value: np.generic) -> onnx.NodeProto:
    """A constant of no dimensions."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))


def counted() -> list[onnx.NodeProto]:
    """Numbers of heads H and G of queries and keys, of queries L and of keys S."""
    node, nodes = helper.make_node, []
    for name, source, axis in (("H", "Q", 1), ("L", "Q", 2), ("G", "K", 1), ("S", "K", 2)):
        at, end = f"at{axis}", f"at{axis + 1}"
        nodes.append(node("Slice", [f"{source}_shape", at, end], [f"{name}_one"]))
        nodes.append(node("Squeeze", [f"{name}_one", "at0"], [name]))
    return [
        *constants(at0=[0], at1=[1], at2=[2], at3=[3], last=[-1]),
        *(scalar(name, np.int64(value)) for name, value in (("zero", 0), ("one", 1))),
        *(node("Shape", [name], [f"{name}_shape"]) for name in "QK"),
        *nodes,
    ]


def shared_heads(*names: str) -> list[onnx.NodeProto]:
    """One head of keys or values for each of queries: K_each of K."""
    node = helper.make_node
    return [
        node("Div", ["H", "G"], ["sharing"]),
        node("Range", ["zero", "H", "one"], ["heads"]),
        node("Div", ["heads", "sharing"], ["their_heads"]),
        *(node("Gather", [name, "their_heads"], [f"{name}_each"], axis=1) for name in names),
    ]


def dims_of(value: ir.Value | None) -> list[Dim] | None:
    """Dimensions of a value, None where they are not known."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def sizes_of(tokens: dict[str, list[Dim] | None]) -> list[int | None]:
    """``[B, H, L, S]`` as far as Q, K and V tell; ValueError if they disagree."""
    known = {name: dims for name, dims in tokens.items() if dims is not None}
    for name, dims in known.items():
        if len(dims) != RANK:
            raise ValueError(f"{name} has the shape {dims}, expected [B, heads, tokens, features]")
    q, k, v = (known.get(name, [None] * RANK) for name in TOKENS)
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


def check_blocks(
    index: ir.Value | None, grid: ir.Value | None, sizes: Sequence[int | None]
) -> None:
    """Check that a constant grid covers ``[B, H, L, S]``, and a constant index lies inside of it.

    Raises:
        ValueError: What disagrees.
    """
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
