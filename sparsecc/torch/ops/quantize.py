"""Eight-bit numbers: to them, from them, and products of them.

Products are computed in double precision, where they are exact: accelerators have no products of
integers in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.torch.ops.conv import OPS as CONVOLUTIONS
from sparsecc.torch.ops.create import known_dtype
from sparsecc.torch.ops.table import Function, NodeView, Op, plain


def _along(numbers: Tensor | None, x: Tensor, axis: int, block: int) -> Tensor | None:
    """Scales or zero points, shaped to meet what they belong to."""
    if numbers is None or numbers.dim() == 0:
        return numbers
    if block:
        return numbers.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if numbers.numel() == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if at == axis % x.dim() else 1 for at in range(x.dim())])


def _rounded(scaled: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """To the nearest integers, even ones at ties, of a type with its own bounds."""
    limits = torch.iinfo(dtype)
    whole = torch.round(scaled) if zero is None else torch.round(scaled) + zero
    return whole.clamp(limits.min, limits.max).to(dtype)


def _quantize(node: NodeView) -> Function:
    axis, block = node.get("axis", 1), node.get("block_size", 0)
    code, finer = node.get("output_dtype", 0), node.get("precision", 0)
    default = known_dtype(node, code) if code else torch.uint8
    precision = known_dtype(node, finer) if finer else None
    node.ignore("saturate")

    def quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        dtype = default if zero is None else zero.dtype
        scale, zero = _along(scale, x, axis, block), _along(zero, x, axis, block)
        scaled = x / scale if precision is None else x.to(precision) / scale.to(precision)
        return _rounded(scaled, None if zero is None else zero.to(torch.float32), dtype)

    return quantize


def _dequantize(node: NodeView) -> Function:
    axis, block = node.get("axis", 1), node.get("block_size", 0)
    code = node.get("output_dtype", 0)
    dtype = known_dtype(node, code) if code else None

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        wide, result = x.to(torch.float32), dtype or scale.dtype
        wide = wide if zero is None else wide - _along(zero, x, axis, block)
        return (wide * _along(scale, x, axis, block)).to(result)

    return dequantize


def _dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes whose range covers the smallest and the largest element, and 0."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = _rounded(-low / scale, None, torch.uint8)
    return _rounded(x / scale, zero.to(x.dtype), torch.uint8), scale, zero


def _less(x: Tensor, zero: Tensor | None) -> Tensor:
    return x.double() if zero is None else x.double() - zero.double()


def _rows(numbers: Tensor, x: Tensor) -> Tensor:
    """One for each row of the left factor."""
    return numbers.unsqueeze(-1) if numbers.dim() == 1 and numbers.numel() > 1 else numbers


def _matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    left = a.double() if a_zero is None else a.double() - _rows(a_zero, a).double()
    return (left @ _less(b, b_zero)).to(torch.int32)


def _qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    left = a.double() - _rows(a_zero, a).double()
    scale = _rows(a_scale, a).double() * b_scale.double() / y_scale.double()
    return _rounded((left @ _less(b, b_zero)) * scale, y_zero.double(), y_zero.dtype)


def _channels(numbers: Tensor, x: Tensor) -> Tensor:
    """One for each output of a convolution's weight."""
    return numbers.reshape(-1, *[1] * (x.dim() - 1)) if numbers.dim() else numbers


def _conv_integer(node: NodeView) -> Function:
    conv = CONVOLUTIONS["Conv"].build(node)

    def convolve(
        x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
    ) -> Tensor:
        w_zero = None if w_zero is None else _channels(w_zero, w)
        return conv(_less(x, x_zero), _less(w, w_zero)).to(torch.int32)

    return convolve


def _qlinear_conv(node: NodeView) -> Function:
    conv = CONVOLUTIONS["Conv"].build(node)

    def convolve(
        x: Tensor,
        x_scale: Tensor,
        x_zero: Tensor,
        w: Tensor,
        w_scale: Tensor,
        w_zero: Tensor,
        y_scale: Tensor,
        y_zero: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        weight = _less(w, _channels(w_zero, w))
        sums = conv(_less(x, x_zero), weight, None if bias is None else bias.double())
        scale = x_scale.double() * _channels(w_scale.double(), sums[0]) / y_scale.double()
        return _rounded(sums * scale, y_zero.double(), y_zero.dtype)

    return convolve


OPS: dict[str, Op] = {
    "ConvInteger": Op(_conv_integer),
    "DequantizeLinear": Op(_dequantize, learned=(0, 1)),
    "DynamicQuantizeLinear": Op(plain(_dynamic)),
    "MatMulInteger": Op(plain(_matmul_integer)),
    "QLinearConv": Op(_qlinear_conv, fixed=(1, 4, 6)),
    "QLinearMatMul": Op(plain(_qlinear_matmul), fixed=(1, 4, 6)),
    "QuantizeLinear": Op(_quantize, learned=(1,)),
}
