"""A small CNN and a few steps of training on scikit-learn's digits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sparsecc

TRAIN = 1297


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Pictures [1797, 1, 8, 8] in [0, 1] and labels, shuffled once."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pictures = torch.from_numpy(data.images[:, None] / 16).float()
    return pictures[order], torch.from_numpy(data.target)[order]


def cnn(seed: int = 0) -> nn.Sequential:
    """Three convolutions (layers 0, 3 and 7) and two linears (layers 12 and 14)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def adam(model: nn.Module) -> torch.optim.Adam:
    """The optimiser that goes with it."""
    return torch.optim.Adam(model.parameters(), 4e-3)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: range,
    after: Callable[[], Any] = lambda: None,
) -> None:
    """Some steps of training; what step t sees depends on t alone."""
    x, y = digits()
    model.train()
    for step in steps:
        chosen = torch.randint(TRAIN, (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        after()
    model.eval()


def accuracy(model: nn.Module) -> float:
    """Share of the 500 test digits read right."""
    x, y = digits()
    with torch.no_grad():
        return float((model.eval()(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean())


def compile_and_check(model: nn.Module) -> sparsecc.Compiled:
    """Compile with the zeros that are there; the artifact computes what the module does."""
    x, _ = digits()
    compiled = sparsecc.compile(model.eval(), sparsity="existing", example_inputs=(x[:2],))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x[:64]), model(x[:64]), rtol=1e-4, atol=1e-4)
    return compiled
