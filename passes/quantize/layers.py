"""What the eight-bit op of a layer is: its attributes and constants, or why it has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.blocks import pack_blocks
from sparsecc.passes import edit
from sparsecc.passes.quantize.arithmetic import LARGEST, LEVELS, Scale
from sparsecc.passes.quantize.insert import is_depthwise, pools_image, row_axis

BLOCK = (4, 4)
MOST_TAPS = 128
"""Of a depthwise or pooling window: what the kernels take."""
MOST_SIDE = 64
"""Of a kernel, its stride and its dilation."""
MOST_MULTIPLIED = 2.0**30
"""Largest magnitude of a sum times its multiplier."""
MOST_EXPANDED = 2**26
"""Weights of a grouped convolution written without groups."""

Attribute = int | float | list[int]
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Made:
    """An op of ``sparsecc.ops.int8``.

    Attributes:
        op: Its name.
        attributes: Its attributes, as that module names them.
        constants: Its arrays, in order.
    """

    op: str
    attributes: dict[str, Attribute]
    constants: tuple[NDArray[Any], ...] = ()


Maker = Callable[[ir.Node, Sequence[Scale], Scale, Bounds], Made | str]
"""The op of a node from the scales of its inputs and of its output, and the output's bounds."""


def _weight(value: ir.Value | None, axis: int) -> tuple[NDArray[np.int8], NDArray[Any]] | str:
    """A weight's bytes and one scale per index along ``axis``, or what is wrong."""
    node = None if value is None else value.producer()
    if node is None or not edit.is_op(node, "DequantizeLinear"):
        return "its weight is not eight-bit"
    stored, scale = edit.constant(node.inputs[0]), edit.constant(node.inputs[1])
    zero = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if stored is None or scale is None or stored.dtype not in (np.int8, np.uint8):
        return "its weight is not a constant of bytes"
    along = node.attributes.get_int("axis", 1)
    if scale.size > 1 and (along % stored.ndim != axis or scale.size != stored.shape[axis]):
        return "its weight has scales along another axis than the outputs"
    whole = stored.astype(np.int16)
    if zero is not None and np.any(zero):
        sides = [1] * stored.ndim
        sides[axis if zero.size > 1 else 0] = zero.size
        whole -= zero.astype(np.int16).reshape(sides)
    if whole.size and not -128 <= whole.min() <= whole.max() <= 127:
        return "its weight less its zero point does not fit signed bytes"
    wide = np.broadcast_to(scale.reshape(-1).astype(np.float64), (stored.shape[axis],))
    return whole.astype(np.int8), wide


def _bias(node: ir.Node, scale: NDArray[Any]) -> NDArray[np.int32] | str:
    """The bias in units of ``scale``, or what is wrong."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(len(scale), np.int32)
    numbers, made = edit.constant(value), value.producer()
    if numbers is None and made is not None and edit.is_op(made, "DequantizeLinear"):
        parts = [edit.constant(each) for each in made.inputs]
        if any(part is None for part in parts) or (len(parts) > 2 and np.any(parts[2])):
            return "its bias is not constant, or not symmetric"
        numbers = np.asarray(parts[0], np.float64) * np.asarray(parts[1], np.float64)
    if numbers is None or numbers.reshape(-1).shape != (len(scale),):
        return "its bias is not a constant with one number per output"
    whole = np.rint(numbers.reshape(-1) / scale)
    return whole.astype(np.int32) if np.all(np.abs(whole) <= LARGEST) else "its bias is too large"


def _oihw(node: ir.Node, stored: NDArray[np.int8]) -> NDArray[np.int8] | str:
    """The weight of a convolution; a matrix product is one of a single pixel."""
    read = node.attributes
    if node.op_type == "Conv":
        plain = stored.ndim == 4 and read.get_string("auto_pad", "NOTSET") == "NOTSET"
        return stored if plain else "it is not a 2-D convolution with explicit padding"
    x = node.inputs[0]
    if stored.ndim != 2 or x is None or x.shape is None or len(x.shape) != 2:
        return "it is not a product of rows and a matrix"
    if read.get_int("transA", 0) or {read.get_float(k, 1.0) for k in ("alpha", "beta")} != {1.0}:
        return "its input is transposed or it is scaled"
    return (stored if row_axis(node) == 0 else stored.T)[:, :, None, None]


def _window(node: ir.Node, kernel: Sequence[int]) -> dict[str, Attribute] | str:
    read = node.attributes
    window: dict[str, list[int]] = {
        "strides": list(read.get_ints("strides", (1, 1))),
        "pads": list(read.get_ints("pads", (0, 0, 0, 0))),
        "dilations": list(read.get_ints("dilations", (1, 1))),
    }
    largest = max(*kernel, *window["strides"], *window["dilations"])
    if largest > MOST_SIDE or max(window["pads"]) > MOST_SIDE**2 or min(window["pads"]) < 0:
        return "its window is larger than the kernels take"
    return {**window}


def without_groups(weight: NDArray[np.int8], group: int) -> NDArray[np.int8]:
    """The OIHW weight of one group that computes the same: zeros where groups do not meet."""
    rows, depth = len(weight) // group, weight.shape[1]
    wide = np.zeros((len(weight), depth * group, *weight.shape[2:]), np.int8)
    for at in range(group):
        outputs = slice(at * rows, (at + 1) * rows)
        wide[outputs, at * depth : (at + 1) * depth] = weight[outputs]
    return wide


def _too_large(
    weight: NDArray[np.int8], bias: NDArray[Any], zero: int, multiplier: NDArray[Any]
) -> bool:
    """Whether a sum may exceed 32 bits, on a CPU of unsigned bytes or of signed ones."""
    rows = weight.reshape(len(weight), -1).astype(np.int64)
    size, total = np.abs(rows).sum(1), rows.sum(1)
    most = max(np.abs(bias + (off - zero) * total).max() for off in (0, 128))
    sums = LEVELS * size + most
    return bool(np.any(sums > LARGEST) or np.any(sums * multiplier > MOST_MULTIPLIED))


def _conv(node: ir.Node, inputs: Sequence[Scale], out: Scale, bounds: Bounds) -> Made | str:
    (x,), group = inputs, node.attributes.get_int("group", 1)
    read = _weight(node.inputs[1], row_axis(node))
    if isinstance(read, str):
        return read
    stored, scales = read
    weight = _oihw(node, stored)
    if isinstance(weight, str):
        return weight
    window = _window(node, weight.shape[2:])
    bias = _bias(node, scales * x.scale)
    if isinstance(window, str) or isinstance(bias, str):
        return window if isinstance(window, str) else str(bias)
    multiplier = (scales * x.scale / out.scale).astype(np.float32)
    if _too_large(weight, bias, x.zero, multiplier):
        return "its sums may exceed 32 bits"
    numbers: dict[str, Attribute] = {
        **window,
        "x_zero": x.zero,
        "y_zero": out.zero,
        "low": bounds[0],
        "high": bounds[1],
    }
    if is_depthwise(node, weight) and weight[0, 0].size <= MOST_TAPS:
        taps = np.ascontiguousarray(weight[:, 0])
        return Made("Depthwise", numbers | {"channels": len(weight)}, (taps, bias, multiplier))
    if group != 1:
        if weight.size * group > MOST_EXPANDED:
            return "it has too many groups"
        weight = without_groups(weight, group)
    numbers["channels"] = weight.shape[1]
    return Made("Conv", numbers, (*packed(weight), bias, multiplier))


def packed(weight: NDArray[np.int8]) -> tuple[NDArray[Any], ...]:
    """``values``, ``index``, ``grid`` and ``shape`` of an OIHW weight, its inputs padded to 4."""
    rows = np.pad(weight.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [(0, -weight.shape[1] % BLOCK[1])])
    blocks = pack_blocks(rows.astype(np.float32), BLOCK)
    sizes = np.array(blocks.grid, np.int64), np.array(blocks.shape, np.int64)
    return blocks.values.astype(np.int8), blocks.index, *sizes


def _add(node: ir.Node, inputs: Sequence[Scale], out: Scale, bounds: Bounds) -> Made | str:
    shapes = [None if value is None else value.shape for value in node.inputs]
    if any(shape is None or len(shape) != 4 for shape in shapes) or shapes[0] != shapes[1]:
        return "it does not add images of one shape"
    a, b = (each.scale / out.scale for each in inputs)
    constant = out.zero - a * inputs[0].zero - b * inputs[1].zero
    numbers: dict[str, Attribute] = {"a": a, "b": b, "constant": constant}
    return Made("Add", numbers | {"low": bounds[0], "high": bounds[1]})


def _mean(node: ir.Node, inputs: Sequence[Scale], out: Scale, bounds: Bounds) -> Made | str:
    if not pools_image(node):
        return "it is not a mean over an image"
    if bounds != (0, LEVELS):
        return "a clamp follows the mean"
    (x,) = inputs
    return Made("Mean", {"multiplier": x.scale / out.scale, "x_zero": x.zero, "y_zero": out.zero})


def _maxpool(node: ir.Node, inputs: Sequence[Scale], out: Scale, bounds: Bounds) -> Made | str:
    if not pools_image(node):
        return "it is not a plain pooling of an image"
    if inputs[0] != out or bounds != (0, LEVELS):
        return "pooling changes the scale of its input, or a clamp follows it"
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    window = _window(node, kernel)
    if isinstance(window, str) or kernel[0] * kernel[1] > MOST_TAPS:
        return "its window is larger than the kernels take"
    return Made("MaxPool", {"kernel_shape": kernel, **window})


MAKERS: dict[str, Maker] = {
    "Conv": _conv,
    "Gemm": _conv,
    "MatMul": _conv,
    "Add": _add,
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    "MaxPool": _maxpool,
}
"""By op type."""
