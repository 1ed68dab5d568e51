"""Tensors from nothing, and from one element type to another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsecc.torch.ops.table import Function, NodeView, Op, as_list, dtype_of, to_torch

_NUMBERS = {
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
}


def constant_of(node: NodeView) -> Tensor:
    """What a Constant holds."""
    tensor = node.get("value")
    if tensor is not None:
        made = to_torch(tensor.numpy(), tensor.dtype)
        if made is None:
            raise node.refuse(f"element type {tensor.dtype.name}")
        return made
    for name, dtype in _NUMBERS.items():
        numbers = node.get(name)
        if numbers is not None:
            return torch.from_numpy(np.array(numbers, dtype.numpy()))
    raise node.refuse("a constant that is neither a dense tensor nor numbers")


def _constant(node: NodeView) -> Function:
    value = constant_of(node).to(node.device)
    return lambda: value


def known_dtype(node: NodeView, code: int) -> torch.dtype:
    """The torch type of an element type that a node names."""
    dtype = dtype_of(code)
    if dtype is None:
        raise node.refuse(f"element type {ir.DataType(code).name}")
    return dtype


def _constant_of_shape(node: NodeView) -> Function:
    tensor = node.get("value")
    dtype = torch.float32 if tensor is None else known_dtype(node, tensor.dtype)
    value = 0 if tensor is None else tensor.numpy().reshape(-1)[0].item()
    device = node.device
    return lambda shape: torch.full(as_list(shape), value, dtype=dtype, device=device)


def _range(node: NodeView) -> Function:
    device = node.device

    def make(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, step = start.item(), delta.item()
        count = max(0, -int((first - limit.item()) // step))
        steps = torch.arange(count, device=device)
        return (first + steps * step).to(start.dtype)

    return make


def _eye_like(node: NodeView) -> Function:
    code, k = node.get("dtype"), node.get("k", 0)
    dtype = None if code is None else known_dtype(node, code)

    def eye(x: Tensor) -> Tensor:
        ones = torch.ones(x.shape, dtype=torch.int8, device=x.device)
        return (ones.triu(k) & ones.tril(k)).to(dtype or x.dtype)

    return eye


def _cast(node: NodeView) -> Function:
    dtype = known_dtype(node, node.get("to"))
    node.ignore("saturate", "round_mode")
    return lambda x: x.to(dtype)


def _cast_like(node: NodeView) -> Function:
    node.ignore("saturate", "round_mode")
    return lambda x, like: x.to(like.dtype)


def _bit_cast(node: NodeView) -> Function:
    dtype = known_dtype(node, node.get("to"))
    return lambda x: x.view(dtype)


def _window(offset: float, *terms: float) -> Function:
    """A sum of cosines: Σ (−1)ᵏ aₖ cos(2πkn / N)."""

    def build(node: NodeView) -> Function:
        periodic = node.get("periodic", 1)
        dtype = known_dtype(node, node.get("output_datatype", ir.DataType.FLOAT))
        device = node.device

        def window(size: Tensor) -> Tensor:
            count = int(size)
            steps = torch.arange(count, dtype=torch.float64, device=device)
            phase = steps * (2 * torch.pi / (count if periodic else count - 1))
            result = torch.full_like(steps, offset)
            for k, term in enumerate(terms, 1):
                result += (-1) ** k * term * torch.cos(k * phase)
            return result.to(dtype)

        return window

    return build


def _random(like: bool, normal: bool) -> Function:
    def build(node: NodeView) -> Function:
        code = node.get("dtype", None if like else ir.DataType.FLOAT)
        dtype = None if code is None else known_dtype(node, code)
        shape, device = node.get("shape") if not like else None, node.device
        names = ("mean", "scale") if normal else ("low", "high")
        first, second = (node.get(name, float(at)) for at, name in enumerate(names))
        node.ignore("seed")  # of another generator: torch.manual_seed is what counts here

        def random(x: Tensor | None = None) -> Tensor:
            sizes = shape if x is None else x.shape
            kind = dtype or (torch.float32 if x is None else x.dtype)
            made = torch.empty(sizes, dtype=kind, device=device)
            return made.normal_(first, second) if normal else made.uniform_(first, second)

        return random

    return build


def _bernoulli(node: NodeView) -> Function:
    code = node.get("dtype")
    dtype = None if code is None else known_dtype(node, code)
    node.ignore("seed")
    return lambda x: torch.bernoulli(x).to(dtype or x.dtype)


OPS: dict[str, Op] = {
    "Bernoulli": Op(_bernoulli, static=False),
    "BitCast": Op(_bit_cast),
    "BlackmanWindow": Op(_window(0.42, 0.5, 0.08), host=(0,)),
    "Cast": Op(_cast),
    "CastLike": Op(_cast_like),
    "Constant": Op(_constant),
    "ConstantOfShape": Op(_constant_of_shape, host=(0,)),
    "EyeLike": Op(_eye_like),
    "HammingWindow": Op(_window(25 / 46, 21 / 46), host=(0,)),
    "HannWindow": Op(_window(0.5, 0.5), host=(0,)),
    "RandomNormal": Op(_random(like=False, normal=True), static=False),
    "RandomNormalLike": Op(_random(like=True, normal=True), static=False),
    "RandomUniform": Op(_random(like=False, normal=False), static=False),
    "RandomUniformLike": Op(_random(like=True, normal=False), static=False),
    "Range": Op(_range, host=(0, 1, 2)),
}
