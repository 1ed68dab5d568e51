"""The CNN and its recipe; `python -m examples.mnist_cnn.model` trains and tests three of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from examples._mnist import Labels, Pictures, mnist

EPOCHS, BATCH, RATE = 10, 64, 4e-3
SHIFT = 2
"""Pixels by which a batch moves at most, up or down and to the sides."""

THREADS = 1
"""Fixed, because sums split over other threads round otherwise."""

AfterStep = Callable[[int], None]


def network() -> nn.Sequential:
    """Four 3x3 convolutions of 32, 64, 128 and 128 channels with BatchNorm, and a classifier."""
    return nn.Sequential(
        *_block(1, 32, stride=1),
        *_block(32, 64, stride=2),
        *_block(64, 128, stride=2),
        *_block(128, 128, stride=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as the recipe has it."""
    return torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)


def steps(epochs: int = EPOCHS) -> int:
    """How many steps a training of so many epochs takes."""
    return epochs * -(-len(mnist("train")[1]) // BATCH)


def fit(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    seed: int,
    epochs: int = EPOCHS,
    after_step: AfterStep = lambda step: None,
) -> nn.Module:
    """Train a network with one cycle of the learning rate; the same seed gives the same bits.

    Args:
        model: The network, changed in place.
        optimiser: Of its parameters.
        seed: Of the order of the pictures.
        epochs: Passes over the 4000 pictures.
        after_step: Called with the number of steps done.

    Returns:
        The network in evaluation mode.
    """
    torch.set_num_threads(THREADS)
    order = torch.Generator().manual_seed(seed)
    x, y = map(torch.from_numpy, mnist("train"))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps(epochs))
    done = 0
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=order).split(BATCH):
            optimiser.zero_grad()
            loss(model, _moved(x[chosen], order), y[chosen]).backward()
            optimiser.step()
            cycle.step()
            done += 1
            after_step(done)
    return model.eval()


def _moved(pictures: Tensor, order: torch.Generator) -> Tensor:
    """A batch moved by a few pixels, all pictures alike; their edges are black."""
    shifts = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=order).tolist()
    return pictures.roll(shifts, (2, 3))


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of a batch."""
    return nn.functional.cross_entropy(model(x), y)


def train(seed: int, epochs: int = EPOCHS) -> nn.Module:
    """A trained dense network, in evaluation mode."""
    torch.manual_seed(seed)
    model = network()
    return fit(model, optimiser_of(model), seed, epochs)


def accuracy(run: Callable[[Pictures], Pictures], pictures: Pictures, labels: Labels) -> float:
    """Share of pictures read right by a function from pictures to logits."""
    return float((np.asarray(run(pictures)).argmax(1) == labels).mean())


def logits(model: nn.Module) -> Callable[[Pictures], Pictures]:
    """A torch network as a function from pictures to logits."""

    def run(pictures: Pictures) -> Pictures:
        with torch.no_grad():
            result: Pictures = model(torch.from_numpy(pictures)).numpy()
        return result

    return run


def main() -> None:
    """Train with a few seeds and print the accuracy on the 1000 test pictures."""
    for seed in range(3):
        start = time.perf_counter()
        model = train(seed)
        read = accuracy(logits(model), *mnist("test"))
        print(f"seed {seed}: {read:.1%} in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
