"""How the transformers of the examples are trained: Muon for their blocks, AdamW for the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Optimisers = tuple[torch.optim.Optimizer, ...]


def optimisers_of(model: nn.Module, blocks: nn.Module, rate: float) -> Optimisers:
    """Muon for the matrices of the blocks, AdamW for the rest.

    Args:
        model: What is trained.
        blocks: The part of it that holds blocks.
        rate: The highest learning rate.
    """
    matrices = [each for each in blocks.parameters() if each.ndim == 2]
    inside = set(map(id, matrices))
    rest = [each for each in model.parameters() if id(each) not in inside]
    return (
        torch.optim.Muon(matrices, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, rate, betas=(0.9, 0.95), weight_decay=0.0),
    )


def descend(loss: Tensor, model: nn.Module, optimisers: Optimisers, rate: float) -> None:
    """One step down a loss, with gradients of a norm of at most one."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
