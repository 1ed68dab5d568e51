"""A loss that gathers what is active for a character in few experts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.relu_experts.model import Reader

Watcher = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
_LEAST = 1e-6


class Gathering:
    """How widely the hidden features of characters are spread over groups of neurons.

    For each character it is ``Σ_e ‖h_e‖ / ‖h‖``: 1 where one group has all that is active, and
    ``√groups`` where all have the same. That does not change with the size of features, so that
    they are gathered rather than shrunk.

    Args:
        model: Whose features are watched while it runs.
        groups: Neurons of each group, block by block ``[groups, neurons of one]``.
    """

    def __init__(self, model: Reader, groups: list[NDArray[np.int64]]) -> None:
        self._seen: list[Tensor] = []
        self._hooks = [
            block.activation.register_forward_hook(self._watcher(torch.from_numpy(each)))
            for block, each in zip(model.blocks, groups, strict=True)
        ]

    def loss(self) -> Tensor:
        """The mean over characters and blocks since it was asked last."""
        mean = torch.stack(self._seen).mean()
        self._seen.clear()
        return mean

    def finish(self) -> None:
        """Watch no more."""
        for hook in self._hooks:
            hook.remove()

    def _watcher(self, groups: Tensor) -> Watcher:
        def watch(_: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
            parts = hidden.float()[..., groups.flatten()].unflatten(-1, groups.shape)
            norms = (parts.square().sum(-1) + _LEAST).sqrt()
            whole = (norms.square().sum(-1) + _LEAST).sqrt()
            self._seen.append((norms.sum(-1) / whole).mean())

        return watch
