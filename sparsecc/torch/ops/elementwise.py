"""Arithmetic, comparison and logic, element by element."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Builder, Function, NodeView, Op, plain

_UNARY: dict[str, Function] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _div(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _pow(base: Tensor, exponent: Tensor) -> Tensor:
    result = torch.pow(base, exponent)
    return result if result.dtype == base.dtype else result.to(base.dtype)


def _build_pow(node: NodeView) -> Function:
    """A constant exponent is a number to torch, which knows squares and roots."""
    numbers = node.numbers(1)
    if numbers is None or len(numbers) != 1 or (array := node.constant(1)) is None or array.ndim:
        return _pow
    exponent = numbers[0]
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)

    def power(base: Tensor, _: Tensor) -> Tensor:
        result = torch.pow(base, exponent)
        return result if result.dtype == base.dtype else result.to(base.dtype)

    return power


_BINARY: dict[str, Function] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _div,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _broadcasting(build: Builder) -> Builder:
    """Before opset 7, operands were broadcast along an axis that an attribute names."""

    def builder(node: NodeView) -> Function:
        if node.opset < 7 and node.get("broadcast", 0):
            raise node.refuse("broadcasting by attribute is older than opset 7")
        node.ignore("broadcast", "axis", "consumed_inputs")
        return build(node)

    return builder


def _fold(function: Function) -> Function:
    """An op of any number of operands from one of two."""
    return lambda *inputs: functools.reduce(function, inputs)


def _sum(*inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs)


def _mean(*inputs: Tensor) -> Tensor:
    return _sum(*inputs) / len(inputs)


def _build_mod(node: NodeView) -> Function:
    function: Function = torch.fmod if node.get("fmod", 0) else torch.remainder
    return function


def _build_shift(node: NodeView) -> Function:
    left = node.get("direction") == "LEFT"
    function: Function = torch.bitwise_left_shift if left else torch.bitwise_right_shift
    return function


def _build_is_inf(node: NodeView) -> Function:
    negative, positive = node.get("detect_negative", 1), node.get("detect_positive", 1)
    kinds = {(1, 1): torch.isinf, (1, 0): torch.isneginf, (0, 1): torch.isposinf}
    none: Function = functools.partial(torch.zeros_like, dtype=torch.bool)
    function: Function = kinds.get((negative, positive), none)
    return function


def _build_clip(node: NodeView) -> Function:
    """Bounds are attributes before opset 11, then inputs; constants become numbers."""
    if node.opset < 11:
        low, high = node.get("min", -math.inf), node.get("max", math.inf)
        node.ignore("consumed_inputs")
        return lambda x: torch.clamp(x, low, high)
    bounds: list[Any] = []
    for position in (1, 2):
        numbers = node.numbers(position)
        if node.has(position) and (numbers is None or len(numbers) != 1):
            return _clip
        bounds.append(numbers[0] if numbers else None)
    low, high = bounds
    if low is None and high is None:
        return lambda x, *_: x
    return lambda x, *_: torch.clamp(x, low, high)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def _identity(x: Any) -> Any:
    return x


def _build_dropout(node: NodeView) -> Function:
    """In inference it passes its input on, with a mask of ones where that is asked for."""
    node.ignore("ratio", "seed", "is_test", "consumed_inputs")
    mode = node.constant(2)
    if node.has(2) and (mode is None or bool(mode)):
        raise node.refuse("dropout in training mode")
    if node.wants(1):
        return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool))
    return lambda x, *_: x


def _build_swish(node: NodeView) -> Function:
    alpha = node.get("alpha", 1.0)
    if alpha == 1:
        return functional.silu
    return lambda x: x * torch.sigmoid(alpha * x)


def _swiglu(node: NodeView) -> Function:
    swish = _build_swish(node)
    return lambda a, b: swish(a) * b


def _unary(function: Function) -> Builder:
    def build(node: NodeView) -> Function:
        node.ignore("consumed_inputs")
        return function

    return build


OPS: dict[str, Op] = {
    **{name: Op(_unary(function)) for name, function in _UNARY.items()},
    **{name: Op(_broadcasting(plain(function))) for name, function in _BINARY.items()},
    "BitShift": Op(_build_shift),
    "Clip": Op(_build_clip),
    "Dropout": Op(_build_dropout),
    "Identity": Op(plain(_identity)),
    "IsInf": Op(_build_is_inf),
    "Max": Op(_unary(_fold(torch.maximum))),
    "Mean": Op(_unary(_mean)),
    "Min": Op(_unary(_fold(torch.minimum))),
    "Mod": Op(_build_mod),
    "Pow": Op(_broadcasting(_build_pow)),
    "Sum": Op(_unary(_sum)),
    "SwiGLU": Op(_swiglu),
    "Swish": Op(_build_swish),
    "Where": Op(plain(_where)),
}
