"""Activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Builder, Function, NodeView, Op, plain

SOFTPLUS_LINEAR_FROM = 40.0
"""From here on ln(1 + eˣ) is x in double precision too."""


def _softplus(x: Tensor) -> Tensor:
    return functional.softplus(x, threshold=SOFTPLUS_LINEAR_FROM)


def _older(function: Function) -> Builder:
    """An op without attributes, but for one before opset 6 that says nothing."""

    def build(node: NodeView) -> Function:
        node.ignore("consumed_inputs")
        return function

    return build


def _leaky_relu(node: NodeView) -> Function:
    slope = node.get("alpha", 0.01)
    node.ignore("consumed_inputs")
    return lambda x: functional.leaky_relu(x, slope)


def _elu(node: NodeView) -> Function:
    alpha = node.get("alpha", 1.0)
    node.ignore("consumed_inputs")
    return lambda x: functional.elu(x, alpha)


def _celu(node: NodeView) -> Function:
    alpha = node.get("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


def _selu(node: NodeView) -> Function:
    alpha = node.get("alpha", 1.67326319217681884765625)
    gamma = node.get("gamma", 1.05070102214813232421875)
    node.ignore("consumed_inputs")
    return lambda x: gamma * functional.elu(x, alpha)


def _thresholded_relu(node: NodeView) -> Function:
    alpha = node.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros((), dtype=x.dtype, device=x.device))


def _hard_sigmoid(node: NodeView) -> Function:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    node.ignore("consumed_inputs")
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _hard_swish(x: Tensor) -> Tensor:
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def _gelu(node: NodeView) -> Function:
    approximate = node.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _prelu(node: NodeView) -> Function:
    node.ignore("consumed_inputs")
    return lambda x, slope: torch.where(x < 0, x * slope, x)


def _shrink(node: NodeView) -> Function:
    bias, lambd = node.get("bias", 0.0), node.get("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        low, high = (x < -lambd).to(x.dtype), (x > lambd).to(x.dtype)
        return (low * (x + bias) + high * (x - bias)).to(x.dtype)

    return shrink


def _softmax(function: Function) -> Function:
    """Over one axis from opset 13 on; before, over all axes from one on, flattened."""

    def build(node: NodeView) -> Function:
        if node.opset >= 13:
            axis = node.get("axis", -1)
            return lambda x: function(x, axis)
        first = node.get("axis", 1)

        def flattened(x: Tensor) -> Tensor:
            if first in (-1, x.dim() - 1):
                return function(x, -1)
            split = first % x.dim()
            flat = x.reshape(*x.shape[:split], -1)
            return function(flat, -1).reshape(x.shape)

        return flattened

    return build


def _hardmax(x: Tensor, axis: int) -> Tensor:
    largest = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, largest, 1)


OPS: dict[str, Op] = {
    "Celu": Op(_celu),
    "Elu": Op(_elu),
    "Gelu": Op(_gelu),
    "HardSigmoid": Op(_hard_sigmoid),
    "HardSwish": Op(plain(_hard_swish)),
    "Hardmax": Op(_softmax(_hardmax)),
    "LeakyRelu": Op(_leaky_relu),
    "LogSoftmax": Op(_softmax(torch.log_softmax)),
    "Mish": Op(plain(functional.mish)),
    "PRelu": Op(_prelu, learned=(1,)),
    "Relu": Op(_older(torch.relu)),
    "Selu": Op(_selu),
    "Shrink": Op(_shrink),
    "Sigmoid": Op(_older(torch.sigmoid)),
    "Softmax": Op(_softmax(torch.softmax)),
    "Softplus": Op(plain(_softplus)),
    "Softsign": Op(plain(functional.softsign)),
    "ThresholdedRelu": Op(_thresholded_relu),
}
