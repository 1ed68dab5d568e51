"""AttentionBlocks: which blocks of scores an attention keeps from this call on.

A model that is called step by step, such as one that takes noise from a video, searches for them
at some of its steps (``attention_search.py``) and hands them on to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.ops.attention_blocks_body import ATTRIBUTES, body
from sparsecc.ops.attention_parts import (
    KINDS,
    LEAST_OPSET,
    UNBOUNDED,
    check_blocks,
    check_index,
    dims_of,
    sizes_of,
)
from sparsecc.ops.attention_search import block_masses, choose_blocks
from sparsecc.ops.spec import Array, Dim, OpType

SEARCH = "AttentionBlocks"
_INPUTS = {
    **dict.fromkeys(("Q", "K"), "T"),
    "index": "tensor(int32)",
    "step": "tensor(int64)",
    "grid": "tensor(int64)",
}


def next_blocks(
    q: Array,
    k: Array,
    index: NDArray[np.int32],
    step: int,
    grid: Sequence[int],
    *,
    scale: float,
    full: int,
    searches: Sequence[int],
    sparsity: float,
    words: Sequence[int],
) -> NDArray[np.int32]:
    """Numpy meaning of the op, in the dtype of the queries.

    Args:
        q: ``[B, H, L, E]``.
        k: ``[B, H / g, S, E]``.
        index: What the call before gave; -1 everywhere at first.
        step: Which call this is, from zero on.
        grid: As in :func:`block_masses`.
        scale: What products of queries and keys are multiplied by.
        full: Earlier steps keep every block.
        searches: Steps that search, besides one that needs an index and has none.
        sparsity: As in :func:`choose_blocks`.
        words: As there.

    Returns:
        Ascending positions of the kept blocks, -1 behind, as many numbers as the grid has blocks.

    Raises:
        ValueError: The index is none of the grid.
    """
    blocks = math.prod(grid[:3])
    check_index(index, blocks)
    if step in searches or (step >= full and index[0] == -1):
        tokens = (q.shape[0] * q.shape[2], q.shape[2], k.shape[2])
        kept = choose_blocks(block_masses(q, k, grid, scale), tokens, grid, sparsity, words)
        found = np.flatnonzero(kept).astype(np.int32)
        return np.pad(found, (0, blocks - len(found)), constant_values=-1)
    return np.arange(blocks, dtype=np.int32) if step < full else index


def _check(node: ir.Node) -> None:
    named = dict(zip(_INPUTS, node.inputs, strict=True))
    kinds = {"T": ir.DataType.FLOAT, "tensor(int32)": ir.DataType.INT32}
    for name, kind in _INPUTS.items():
        value, wanted = named[name], kinds.get(kind, ir.DataType.INT64)
        if value is not None and value.dtype not in (None, wanted):
            raise ValueError(f"{name} is {value.dtype}, expected {wanted}")
    _check_attributes(node)
    sizes = sizes_of({name: dims_of(named[name]) for name in ("Q", "K")})
    check_blocks(named["index"], named["grid"], sizes)
    grid = _grid_of(node) or []
    if sizes[1] not in (None, grid[0]) or min(grid) < 1:
        raise ValueError(f"the grid {grid} is empty, or not of {sizes[1]} heads")
    for name, length in (("index", math.prod(grid[:3])), ("step", 1)):
        dims = dims_of(named[name])
        if dims is not None and [dim if isinstance(dim, int) else length for dim in dims] != [
            length
        ]:
            raise ValueError(f"{name} has the shape {dims}, expected [{length}]")


def _check_attributes(node: ir.Node) -> None:
    for name, kind in ATTRIBUTES.items():
        wanted = ir.AttributeType(KINDS[kind][1])
        if node.attributes[name].type != wanted:
            raise ValueError(f"the attribute {name} is no {wanted.name.lower()}")
    full, searches = node.attributes["full"].as_int(), node.attributes["searches"].as_ints()
    words, scale = node.attributes["words"].as_ints(), node.attributes["scale"].as_float()
    sparsity = float(np.float32(node.attributes["sparsity"].as_float()))
    if not np.isfinite(np.float32(scale)):
        raise ValueError(f"the scale is {scale}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"the sparsity is {sparsity}, expected 0 or more and less than 1")
    if full < 0 or [*searches] != sorted({*searches}) or (searches and searches[0] < 0):
        raise ValueError(f"the steps {full} and {list(searches)} are negative or do not ascend")
    if len(words) != 2 or min(words) < 0 or max(words) > UNBOUNDED:
        raise ValueError(f"the words are {list(words)}, expected how many before and behind")


def _grid_of(node: ir.Node) -> list[int] | None:
    grid = node.inputs[-1]
    if grid is None or grid.const_value is None:
        return None
    return [int(number) for number in grid.const_value.numpy()]


def _infer(node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    sizes_of({"Q": list(x), "K": dims_of(node.inputs[1])})
    grid = _grid_of(node)
    return [None if grid is None else math.prod(grid[:3])]


SEARCHES: dict[str, OpType] = {
    SEARCH: OpType(
        doc="Y = positions of the blocks of scores that an attention keeps from this step on.",
        inputs=_INPUTS,
        attributes=ATTRIBUTES,
        body=body,
        check=_check,
        infer=_infer,
        least_opset=LEAST_OPSET,
        output="tensor(int32)",
    )
}
"""What finds blocks for attention while a model runs."""
