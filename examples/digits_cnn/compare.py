"""Trains a small CNN on scikit-learn's digits and compares four ways of pruning it, over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

import sparsecc

SEEDS = range(5)
SPARSITIES = ("unstructured:0.5", "unstructured:0.7")
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude", "refit": False},
    "ALPS mask only": {"score": "alps", "refit": False},
    "SparseGPT mask, refit": {"score": "sparsegpt"},
    "ALPS mask, refit": {"score": "alps"},
}
TRAIN = 1297  # of the 1797 pictures; the other 500 are the test set
EPOCHS, BATCH = 12, 64

Pictures = NDArray[np.float32]


def digits() -> tuple[Pictures, NDArray[np.int64]]:
    """All pictures [1797, 1, 8, 8] in [0, 1] and their labels, shuffled once."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pictures = (data.images[order, None] / 16).astype(np.float32)
    return pictures, data.target[order].astype(np.int64)


def network() -> nn.Sequential:
    """Three 3x3 convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(pictures: Pictures, labels: NDArray[np.int64], seed: int) -> nn.Sequential:
    """A trained network, in evaluation mode."""
    torch.set_num_threads(1)  # too small a network for two
    torch.manual_seed(seed)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    x, y = torch.from_numpy(pictures), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimiser.step()
    return model.eval()


def pruned(model: nn.Module, sparsity: str, method: str, calibration: Pictures) -> Any:
    """The network compiled at `sparsity` by one of `METHODS`."""
    return sparsecc.compile(
        model,
        sparsity=sparsity,
        example_inputs=(torch.from_numpy(calibration[:2]),),
        calibration={"input": calibration},
        **METHODS[method],
    )


def output_error(ours: Pictures, dense: Pictures) -> float:
    """Squared error of the logits relative to their energy."""
    return float(np.square(ours - dense).sum() / np.square(dense).sum())


def main() -> None:
    """Prints accuracy and logit error of each method, as means over the seeds."""
    pictures, labels = digits()
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    accuracies = []
    for seed in SEEDS:
        model = train(pictures[:TRAIN], labels[:TRAIN], seed)
        with torch.no_grad():
            dense = model(torch.from_numpy(pictures[TRAIN:])).numpy()
        accuracies.append(float((dense.argmax(1) == labels[TRAIN:]).mean()))
        for sparsity in SPARSITIES:
            for method in METHODS:
                ours = pruned(model, sparsity, method, pictures[:TRAIN])(pictures[TRAIN:])
                accuracy = float((ours.argmax(1) == labels[TRAIN:]).mean())
                error = output_error(ours, dense)
                results.setdefault((sparsity, method), []).append((accuracy, error))
    table = Table(title=f"digits CNN, {len(SEEDS)} seeds, dense accuracy {np.mean(accuracies):.2%}")
    for column in ("zeros", "method", "accuracy", "logit error"):
        table.add_column(column)
    for (sparsity, method), values in results.items():
        accuracy, error = np.mean(values, axis=0)
        table.add_row(sparsity, method, f"{accuracy:.2%}", f"{error:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
