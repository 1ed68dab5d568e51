"""SparseConv: a 2-D convolution, NCHW, whose weight keeps only its non-zero blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from sparsecc.ops.spec import Array, Attributes, Dim, LayerSpec

ATTRIBUTES = {"strides": 2, "pads": 4, "dilations": 2, "group": 0}


def _integers(attributes: Attributes, name: str) -> list[int]:
    value = attributes[name]
    return [value] if isinstance(value, int) else list(value)


def _output_side(size: Dim, kernel: int, axis: int, attributes: Attributes) -> Dim:
    """Length of one spatial side of the output (ONNX Conv, floor)."""
    if not isinstance(size, int):
        return None
    pads = _integers(attributes, "pads")
    reach = (kernel - 1) * _integers(attributes, "dilations")[axis] + 1
    free = size + pads[axis] + pads[axis + 2] - reach
    if free < 0:
        raise ValueError(f"a kernel over {reach} pixels does not fit into {size} + padding")
    return free // _integers(attributes, "strides")[axis] + 1


def infer(x: Sequence[Dim], weight: Sequence[int], attributes: Attributes) -> list[Dim]:
    """``[N, R, H', W']`` from X ``[N, C, H, W]`` and the weight's ``(R, kh, kw, C/group)``."""
    if len(x) != 4:
        raise ValueError(f"X has rank {len(x)}, expected [N, C, H, W]")
    (group,) = _integers(attributes, "group")
    if isinstance(x[1], int) and x[1] != weight[3] * group:
        raise ValueError(f"X has {x[1]} channels, the weight wants {weight[3]} × {group} groups")
    sides = [_output_side(x[2 + axis], weight[1 + axis], axis, attributes) for axis in (0, 1)]
    return [x[0], weight[0], *sides]


def linear(x: Array, weight: Array, bias: Array, attributes: Attributes) -> Array:
    """Convolve, one kernel tap at a time: the plain definition, in the dtype of its inputs."""
    top, left, bottom, right = _integers(attributes, "pads")
    down, across = _integers(attributes, "strides")
    dilation_h, dilation_w = _integers(attributes, "dilations")
    (group,) = _integers(attributes, "group")
    rows, kernel_h, kernel_w, depth = weight.shape
    _, _, height, width = infer(x.shape, weight.shape, attributes)
    assert isinstance(height, int)
    assert isinstance(width, int)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    grouped = padded.reshape(len(x), group, depth, *padded.shape[2:])
    by_group = weight.reshape(group, rows // group, kernel_h, kernel_w, depth)
    out = np.zeros((len(x), group, rows // group, height, width), x.dtype)
    for i in range(kernel_h):
        for j in range(kernel_w):
            top_i, left_j = i * dilation_h, j * dilation_w
            seen = grouped[
                :,
                :,
                :,
                top_i : top_i + (height - 1) * down + 1 : down,
                left_j : left_j + (width - 1) * across + 1 : across,
            ]
            out += np.einsum("grk,ngkhw->ngrhw", by_group[:, :, i, j], seen)
    return out.reshape(len(x), rows, height, width) + bias[:, None, None]


def linear_body(weight: str, output: str) -> list[onnx.NodeProto]:
    """Transpose the weight to OIHW, then Conv."""
    conv = helper.make_node("Conv", ["X", "oihw", "bias"], [output])
    for name, length in ATTRIBUTES.items():
        kind = onnx.AttributeProto.INTS if length else onnx.AttributeProto.INT
        conv.attribute.append(onnx.AttributeProto(name=name, ref_attr_name=name, type=kind))
    return [helper.make_node("Transpose", [weight], ["oihw"], perm=[0, 3, 1, 2]), conv]


SPARSE_CONV = LayerSpec(
    base="SparseConv",
    doc="Y = activation(Conv(X, W, bias) + residual), W kept as its non-zero blocks.",
    attributes=ATTRIBUTES,
    weight_rank=4,
    infer=infer,
    linear=linear,
    linear_body=linear_body,
)
