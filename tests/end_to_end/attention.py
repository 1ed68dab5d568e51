"""Small models around one block-sparse attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops

TOKENS, HEADS, GROUPS, DIM, BLOCK = 100, 4, 2, 16, 16
WIDTH = HEADS * DIM
SIDE = -(-TOKENS // BLOCK)
BLOCKS = HEADS * SIDE * SIDE
SEARCH = {"full": 2, "searches": [2, 4], "sparsity": 0.5, "words": [5, 0]}
"""Of a layer that searches its blocks: steps 0 and 1 keep all, 2 and 4 search."""
FREE = {"left": ops.UNBOUNDED, "right": ops.UNBOUNDED, "sinks": 0}


def kept_blocks(density: float = 0.4) -> NDArray[np.int32]:
    """Positions of random blocks of every head, those of the diagonal among them."""
    keep = np.random.default_rng(1).random((HEADS, SIDE, SIDE)) < density
    return np.flatnonzero(keep | np.eye(SIDE, dtype=bool)).astype(np.int32)


def layer(
    *,
    given_index: bool = False,
    mask: bool = False,
    searched: bool = False,
    batch: str | int = 1,
) -> onnx.ModelProto:
    """An attention layer over ``[batch, 100, 64]``: four products, heads of keys are shared.

    Args:
        given_index: Whether the positions of blocks are an input.
        mask: Whether there is a mask, which is an input.
        searched: Whether the layer searches its blocks: ``index`` and ``step`` are inputs, and what
            it keeps from then on is the output ``index.next``.
        batch: Its size, or the name of an open one.
    """
    rng, node = np.random.default_rng(0), helper.make_node
    widths = {"q": WIDTH, "k": GROUPS * DIM, "v": GROUPS * DIM, "y": WIDTH}
    weights: dict[str, Any] = {
        f"w{name}": np.float32(rng.standard_normal((WIDTH, width)) / WIDTH**0.5)
        for name, width in widths.items()
    }
    weights["grid"] = np.array([HEADS, SIDE, SIDE, BLOCK, BLOCK])
    weights |= {"by_head": np.array([0, 0, -1, DIM]), "whole": np.array([0, 0, WIDTH])}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, TOKENS, WIDTH])]
    if given_index:
        inputs.append(helper.make_tensor_value_info("index", TensorProto.INT32, ["blocks"]))
    elif searched:
        inputs += [
            helper.make_tensor_value_info("index", TensorProto.INT32, [BLOCKS]),
            helper.make_tensor_value_info("step", TensorProto.INT64, [1]),
        ]
    else:
        weights["index"] = kept_blocks()
    if mask:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [TOKENS, TOKENS]))
    nodes = []
    for name in "qkv":
        nodes += [
            node("MatMul", ["x", f"w{name}"], [name], name),
            node("Reshape", [name, "by_head"], [f"{name}s"], f"{name}_split"),
            node("Transpose", [f"{name}s"], [f"{name}t"], f"{name}_turn", perm=[0, 2, 1, 3]),
        ]
    op_type = ops.attention_variant(blocks=True, mask=mask)
    kept = "index.next" if searched else "index"
    if searched:
        read = ["qt", "kt", "index", "step", "grid"]
        how = SEARCH | {"scale": 0.25}
        nodes.append(node(ops.SEARCH, read, [kept], "search", domain=ops.DOMAIN, **how))
    read = ["qt", "kt", "vt", kept, "grid", *(["mask"] if mask else [])]
    nodes += [
        node(op_type, read, ["c"], "attention", domain=ops.DOMAIN, scale=0.25, **FREE),
        node("Transpose", ["c"], ["ct"], "turn_back", perm=[0, 2, 1, 3]),
        node("Reshape", ["ct", "whole"], ["r"], "merge"),
        node("MatMul", ["r", "wy"], ["y"], "y"),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, TOKENS, WIDTH])]
    if searched:
        outputs.append(helper.make_tensor_value_info(kept, TensorProto.INT32, [BLOCKS]))
    return helper.make_model(
        helper.make_graph(nodes, "layer", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        functions=[
            ops.function(each, 17) for each in (op_type, *([ops.SEARCH] if searched else []))
        ],
        ir_version=8,
    )


def feeds(batch: int = 1, *, given_index: bool = False, mask: bool = False) -> dict[str, Any]:
    """Inputs of :func:`layer`; an index ends in a few -1."""
    rng = np.random.default_rng(2)
    made: dict[str, Any] = {"x": rng.standard_normal((batch, TOKENS, WIDTH)).astype(np.float32)}
    if given_index:
        made["index"] = np.append(kept_blocks(0.2), np.full(3, -1, np.int32))
    if mask:
        hidden = rng.random((TOKENS, TOKENS)) < 0.3
        made["mask"] = np.where(hidden, -np.inf, 0).astype(np.float32)
    return made
