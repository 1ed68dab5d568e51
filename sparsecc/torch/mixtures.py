"""Mixtures of experts in plain torch, one expert after the other, and their gradients.

Tensors are those of ``sparsecc::grouped_experts``; products and sums are in float32 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_aten = torch.ops.aten
_Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
_ACTIVATIONS: Mapping[str, _Pair] = {
    # those of sparsecc.ops.activations → the function, and its gradient by that of its result
    "none": (lambda x: x, lambda grad, x: grad),
    "relu": (functional.relu, lambda grad, x: _aten.threshold_backward(grad, x, 0)),
    "relu6": (functional.relu6, lambda grad, x: _aten.hardtanh_backward(grad, x, 0, 6)),
    "hardswish": (functional.hardswish, _aten.hardswish_backward),
    "silu": (functional.silu, _aten.silu_backward),
    "gelu": (functional.gelu, _aten.gelu_backward),
    "gelu_tanh": (
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    ),
    "sigmoid": (torch.sigmoid, lambda grad, x: _aten.sigmoid_backward(grad, torch.sigmoid(x))),
    "hardsigmoid": (functional.hardsigmoid, _aten.hardsigmoid_backward),
}
Tensors = Mapping[str, Tensor]
"""``x``, ``experts``, ``gates`` and the weights by their names in the op; no others."""


@dataclass(frozen=True)
class _Expert:
    """One expert on its tokens.

    Attributes:
        e: Which it is.
        token: Its tokens.
        slot: In which slot each has it.
        x: ``[tokens, features]`` of these.
        share: ``[tokens, 1]``, their gates.
        weights: Its own, in the type of x.
        up: ``[tokens, inner]``, before the activation.
        active: Behind it.
        gate: What that is multiplied by, or one.
    """

    e: int
    token: Tensor
    slot: Tensor
    x: Tensor
    share: Tensor
    weights: Tensors
    up: Tensor
    active: Tensor
    gate: Tensor | float

    @property
    def hidden(self) -> Tensor:
        """What goes down."""
        return self.active * self.gate

    @property
    def made(self) -> Tensor:
        """What it makes, before gates."""
        down: Tensor = functional.linear(
            self.hidden, self.weights["down"], self.weights.get("down_bias")
        )
        return down


def forward(tensors: Tensors, activation: str) -> Tensor:
    """``[tokens, features]``, wide; pairs without an expert add nothing."""
    total = torch.zeros_like(_wide(tensors["x"]))
    for expert in _experts(tensors, activation):
        total.index_add_(0, expert.token, expert.made * expert.share)
    return total


def backward(grad: Tensor, tensors: Tensors, activation: str) -> dict[str, Tensor]:
    """Gradients of all but the experts, by name, wide; what is hidden is computed again.

    Args:
        grad: ``[tokens, features]``, of the result.
        tensors: As they were.
        activation: A name of ``ACTIVATIONS``.
    """
    kind = _wide(tensors["x"]).dtype
    of = {
        name: torch.zeros_like(each, dtype=kind)
        for name, each in tensors.items()
        if name != "experts"
    }
    for expert in _experts(tensors, activation):
        weights, above = expert.weights, grad[expert.token].to(kind)
        of["gates"][expert.token, expert.slot] = (above * expert.made).sum(-1)
        above = above * expert.share
        into = above @ weights["down"]
        products = {"down": (above, expert.hidden)}
        up = _ACTIVATIONS[activation][1](into * expert.gate, expert.up)
        products["up"], own = (up, expert.x), up @ weights["up"]
        if "gate" in weights:
            products["gate"] = (into * expert.active, expert.x)
            own = own + products["gate"][0] @ weights["gate"]
        of["x"].index_add_(0, expert.token, own)
        for name, (outputs, inputs) in products.items():
            of[name][expert.e] = outputs.mT @ inputs
            if f"{name}_bias" in of:
                of[f"{name}_bias"][expert.e] = outputs.sum(0)
    return of


def _experts(tensors: Tensors, activation: str) -> Iterator[_Expert]:
    """Every expert that some token chose, on its tokens."""
    x, gates = _wide(tensors["x"]), _wide(tensors["gates"])
    for e in range(len(tensors["up"])):
        token, slot = (tensors["experts"] == e).nonzero(as_tuple=True)
        if not len(token):
            continue
        weights = {
            name: each[e].to(x.dtype)
            for name, each in tensors.items()
            if name not in ("x", "experts", "gates")
        }
        own, share = x[token], gates[token, slot, None].to(x.dtype)
        up = functional.linear(own, weights["up"], weights.get("up_bias"))
        gate: Tensor | float = 1.0
        if "gate" in weights:
            gate = functional.linear(own, weights["gate"], weights.get("gate_bias"))
        active = _ACTIVATIONS[activation][0](up)
        yield _Expert(e, token, slot, own, share, weights, up, active, gate)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
