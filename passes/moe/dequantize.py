"""Weights of experts that stand in a model as codes, as the numbers that they mean.

They become codes again, of whatever form, when mixtures are packed (`sparsecc.formats.codes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant, is_op

Array = NDArray[np.floating]
_BYTE = 8


@contextmanager
def as_constants(model: ir.Model) -> Iterator[None]:
    """While it lasts, what DequantizeLinear makes of constants is a constant of the main graph."""
    outputs = [node.outputs[0] for node in model.graph if _is_constant(node)]
    for output in outputs:
        output.const_value = _lazy(output)
    try:
        yield
    finally:
        for output in outputs:
            output.const_value = None


def _is_constant(node: ir.Node) -> bool:
    """Whether a node dequantises a constant to float32."""
    if not is_op(node, "DequantizeLinear") or len(node.inputs) < 2:
        return False
    parts = [value for value in node.inputs if value is not None]
    made = node.outputs[0]
    known = all(value.const_value is not None for value in parts)
    return known and parts[1].dtype == ir.DataType.FLOAT and made.const_value is None


def _lazy(output: ir.Value) -> ir.LazyTensor:
    node = output.producer()
    assert node is not None
    assert node.inputs[0] is not None
    assert node.inputs[0].const_value is not None
    shape = node.inputs[0].const_value.shape

    def make() -> ir.Tensor[Any]:
        return ir.Tensor(_dequantize_linear(node), name=output.name)

    return ir.LazyTensor(
        make, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape.numpy()), cache=True, name=output.name
    )


def _dequantize_linear(node: ir.Node) -> Array:
    codes, scale, zero = (constant(value) for value in [*node.inputs, None][:3])
    assert codes is not None
    assert scale is not None
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    whole = codes.astype(np.int32)
    if zero is not None:
        whole -= _spread(zero.astype(np.int32), whole.shape, axis, block)
    return np.asarray(whole.astype(np.float32) * _spread(scale, whole.shape, axis, block))


def _spread(part: NDArray[Any], shape: Sequence[int], axis: int, block: int) -> NDArray[Any]:
    """A scale or zero point for each code: of all, of an index along an axis, or of a block."""
    if part.size == 1:
        return part.reshape(())
    if block:
        return np.repeat(part, block, axis)[_until(shape[axis], axis % len(shape))]
    sides = [1] * len(shape)
    sides[axis] = part.size
    return part.reshape(sides)


def _until(size: int, axis: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(size))


# ---- com.microsoft.QMoE ----
_FIRST, _ZEROS, _ROUTER_WEIGHTS = (2, 5, 8), (11, 12, 13), 14
_INTEGERS = (4, 8)


def experts_of_qmoe(node: ir.Node) -> list[Array | None] | str:
    """Weights and biases in the order of com.microsoft.MoE's inputs; why they cannot be read."""
    read = node.attributes
    inputs = [*node.inputs, *[None] * _ROUTER_WEIGHTS][: _ROUTER_WEIGHTS + 1]
    if read.get_string("quant_type", "int") != "int":
        return f"experts of the type {read.get_string('quant_type')!r}"
    if read.get_int("weights_prepacked", -1) == 1:
        return "experts whose weights are stored for one execution provider"
    if inputs[_ROUTER_WEIGHTS] is not None:
        return "a mixture of experts whose gates come from elsewhere than the choice"
    bits, found = read.get_int("expert_weight_bits", 4), list[Array | None]()
    for number, (at, zeros) in enumerate(zip(_FIRST, _ZEROS, strict=True), start=1):
        own = read.get_int(f"fc{number}_expert_weight_bits", bits)
        if own not in _INTEGERS:
            return f"experts of {own} bits"
        parts = [inputs[at], inputs[at + 1], inputs[at + 2], inputs[zeros]]
        codes, scales, bias, zero = (constant(value) for value in parts)
        if any(v is not None and constant(v) is None for v in parts):
            return "experts whose weights are computed"
        weight = None if codes is None else _weight(codes, scales, zero, own, node)
        if isinstance(weight, str):
            return weight
        found += [weight, bias]
    return found


def _weight(
    codes: NDArray[Any],
    scales: NDArray[Any] | None,
    zero: NDArray[Any] | None,
    bits: int,
    node: ir.Node,
) -> Array | str:
    """``(code - zero) * scale``, with codes ``[E, R, K * bits / 8]``, low bits first."""
    block = node.attributes.get_int("block_size", 0)
    if codes.ndim != 3 or codes.dtype != np.uint8 or scales is None:
        return "experts that are not bytes with scales"
    whole = _unpacked(codes, bits)
    experts, rows, columns = whole.shape
    groups = columns // block if block > 0 else 1
    if block > 0 and columns % block:
        return f"experts of {columns} inputs, no multiple of block_size {block}"
    if scales.size != experts * rows * groups:
        return f"experts with scales of the shape {list(scales.shape)} for {list(whole.shape)}"
    shift: NDArray[Any] = np.array(2 ** (bits - 1))
    if zero is not None:
        along = zero.reshape(experts, rows, -1) if block > 0 else zero.reshape(experts, -1)
        shift = _unpacked(along, bits)
        shift = shift[..., :groups] if block > 0 else shift[:, :rows, None]
        shift = np.repeat(shift, columns // groups, axis=2)
    each = np.repeat(scales.reshape(experts, rows, groups), columns // groups, axis=2)
    return np.asarray((whole - shift).astype(np.float32) * each.astype(np.float32))


def _unpacked(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int16]:
    """Codes that lie in bytes along the last axis, as numbers."""
    if bits == _BYTE:
        return codes.astype(np.int16)
    both = np.stack([codes & 15, codes >> 4], axis=-1)
    return both.reshape(*codes.shape[:-1], -1).astype(np.int16)
