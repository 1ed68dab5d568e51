"""What the report says of eight-bit layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.cost import roofline
from sparsecc.cost.model import cost_model
from sparsecc.cost.roofline import UNKNOWN_BATCH, UNKNOWN_SIDE, Work
from sparsecc.ops import int8
from sparsecc.passes import edit
from sparsecc.passes.quantize.layers import BLOCK
from sparsecc.report.rows import LayerRow
from sparsecc.targets import Target


def int8_rows(model: ir.Model, target: Target) -> dict[str, LayerRow]:
    """A row for every eight-bit convolution or matrix product of the main graph, by layer name."""
    layers = [node for node in model.graph if node.domain == int8.DOMAIN and len(node.inputs) > 2]
    return {str(node.name): _row(node, target) for node in layers}


def _row(node: ir.Node, target: Target) -> LayerRow:
    values, bias = _array(node, "values"), _array(node, "bias")
    points, inputs = _points(node)
    if node.op_type == "Depthwise":
        work = Work(len(bias), values[0].size, points, len(bias), inputs, is_conv=True)
        blocks, share = math.ceil(values.size / math.prod(BLOCK)), 1.0
    else:
        grid, shape = _array(node, "grid"), _array(node, "shape")
        cols = int(shape[1] * shape[2]) * node.attributes.get_int("channels", 0)
        work = Work(len(bias), cols, points, 1, inputs, is_conv=True)
        blocks, share = len(values), len(values) / max(1, int(grid[0] * grid[1]))
    return LayerRow(
        name=str(node.name),
        op="Conv",
        shape=(work.rows, work.cols),
        macs=work.macs,
        density=round(np.count_nonzero(values) / max(1, work.rows * work.cols), 6),
        pattern="4x4" if share < 1 else "dense",
        eligible=True,
        why="eight-bit, every block" if share == 1 else f"eight-bit, {share:.0%} of the blocks",
        kernel=f"int8-{node.op_type.lower()}",
        est_ms=round(roofline.int8_ms(work, blocks, target), 6),
        dense_ms=round(cost_model(target).dense(work).ms, 6),
        flops=2.0 * math.prod(BLOCK) * blocks * points,
        moved_bytes=work.activation_bytes // 4 + roofline.INT8_PER_BLOCK * blocks,
    )


def _array(node: ir.Node, name: str) -> NDArray[Any]:
    found = edit.constant(node.inputs[int8.INPUTS[node.op_type].index(name)])
    assert found is not None, f"{name} of {node.name} is not constant"
    return found


def _points(node: ir.Node) -> tuple[int, int]:
    """Pixels of the output, and elements of the input, of one run."""
    sizes = []
    for value in (node.outputs[0], node.inputs[0]):
        shape = list(value.shape or ()) if value is not None else []
        known = [dim if isinstance(dim, int) else UNKNOWN_SIDE for dim in shape] or [1]
        if shape and not isinstance(shape[0], int):
            known[0] = UNKNOWN_BATCH
        sizes.append(known)
    out, read = sizes
    return out[0] * math.prod(out[2:]), math.prod(read)
