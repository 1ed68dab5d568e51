"""Weights that a mask weakens while gradients reach all of them: the straight-through estimator.

The forward pass uses W̃ = W ⊙ (m + (1 − m) β), the backward pass takes ∂W̃/∂W for 1, so that a
dropped weight goes on learning and may come back. With β falling from 1 to 0 that is progressive
gradient flow (Bambhaniya et al. 2024); with β = 0 and a decay λ (1 − m) ⊙ W added to the gradient
it is SR-STE (Zhou et al. 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Weaken(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, beta: float, decay: float) -> Tensor:
        ctx.decay = decay
        ctx.save_for_backward(*((weight, mask) if decay else ()))
        return torch.where(mask, weight, weight * beta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.decay:
            weight, mask = ctx.saved_tensors
            gradient = gradient + ctx.decay * torch.where(mask, torch.zeros_like(weight), weight)
        return gradient, None, None, None


def weaken(weight: Tensor, mask: Tensor, beta: float = 0.0, decay: float = 0.0) -> Tensor:
    """W ⊙ (m + (1 − m) β), with the gradient of W̃ for that of W.

    Args:
        weight: W.
        mask: m, True where a weight is kept.
        beta: β, what is left of a dropped weight.
        decay: λ of SR-STE: λ (1 − m) ⊙ W is added to the gradient.
    """
    result: Tensor = _Weaken.apply(weight, mask, beta, decay)
    return result


class Weakened(nn.Module):  # type: ignore[misc]
    """:func:`weaken` as a parametrisation; whoever trains sets ``mask`` and ``beta``."""

    def __init__(self, mask: Tensor, beta: float, decay: float) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.beta, self.decay = beta, decay

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the forward pass uses it."""
        return weaken(weight, self.mask, self.beta, self.decay)
