"""Feed-forward networks of the reader that compute some of their neurons, split in several ways."""

from __future__ import annotations

import copy
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.relu_experts.model import Block, Reader
from sparsecc.passes.split.group import group
from sparsecc.passes.split.router import Router, brought, train

Way = Literal["weights", "activations", "random"]
"""What neurons of an expert have in common; the first two are the compiler's own."""
WAYS: tuple[Way, ...] = get_args(Way)
NEURONS = 32
"""Of an expert, as in the compiler."""
Array = NDArray[np.float32]


class Chosen(nn.Module):
    """A layer that gives zero for neurons of experts that its router does not choose.

    Args:
        layer: The layer in front of ReLU.
        groups: Neurons of each expert.
        router: Chooses among them.
        count: Experts of a token.
    """

    def __init__(self, layer: nn.Linear, groups: NDArray[np.int64], router: Router, count: int):
        super().__init__()
        self.layer, self.router, self.count = layer, router, count
        self.expert = torch.from_numpy(np.argsort(groups.reshape(-1)) // groups.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """The layer's features, of which those that were not chosen are zero."""
        order = self.router.chosen(x.flatten(0, -2).numpy(), self.count)
        kept = torch.zeros(len(order), len(self.router.bias), dtype=torch.bool)
        kept.scatter_(1, torch.from_numpy(order), value=True)
        neurons = kept[:, self.expert].view(*x.shape[:-1], -1)
        return torch.where(neurons, self.layer(x), 0)


@torch.no_grad()
def tokens(model: Reader, text: Tensor) -> list[Array]:
    """What goes into the feed-forward network of each block ``[tokens, FEATURES]``."""
    seen: list[Array] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].flatten(0, -2).numpy())

    hooks = [block.up.register_forward_pre_hook(keep) for block in model.blocks]
    model(text)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def split(model: Reader, way: Way, text: Tensor, seed: int = 0) -> list[tuple[NDArray, Router]]:
    """The experts of each block's neurons, and a router that was trained on a text."""
    return [
        _split_block(block, way, x, np.random.default_rng([seed, at]))
        for at, (block, x) in enumerate(zip(model.blocks, tokens(model, text), strict=True))
    ]


def _split_block(
    block: Block, way: Way, x: Array, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Router]:
    up = block.up.weight.numpy()
    hidden = torch.relu(block.up(torch.from_numpy(x))).numpy()
    if way == "random":
        groups = np.sort(rng.permutation(len(up)).reshape(-1, NEURONS))
    else:
        groups = group(way, len(up) // NEURONS, up, hidden > 0, rng)
    return groups, train(x, brought(hidden, groups, block.down.weight.numpy()), up, groups, rng)


def choosing(model: Reader, splits: list[tuple[NDArray, Router]], share: float) -> Reader:
    """A copy of the model whose tokens go through a share of the experts of each block."""
    made = copy.deepcopy(model)
    for block, (groups, router) in zip(made.blocks, splits, strict=True):
        block.up = Chosen(block.up, groups, router, round(share * len(groups)))
    return made
