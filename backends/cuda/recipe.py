"""What computes an operator on a GPU: launches of kernels by the names of their tensors.

A recipe holds no tensors, so that torch, an artifact and the interpreter read the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.kernel import Kernel

if TYPE_CHECKING:
    from torch import Tensor

Given = str | int | float
"""Of an argument: the name of a tensor, or a number."""
Scratch = tuple[str, tuple[int, ...]]
"""Element type, as torch names it, and shape."""
Start = Callable[[Kernel, tuple[int, ...], dict[str, Any]], Any]
"""Starts a kernel over a grid with arguments by name: on a GPU, or in the interpreter."""


@dataclass(frozen=True)
class Step:
    """One launch.

    Attributes:
        kernel: A row of the table.
        grid: Programs along each of up to three axes.
        given: Argument → what it is given.
    """

    kernel: Kernel
    grid: tuple[int, ...]
    given: Mapping[str, Given]


@dataclass(frozen=True)
class Recipe:
    """Launches, one after the other.

    Attributes:
        steps: In order.
        scratch: Tensors that only the steps use, by name.
    """

    steps: tuple[Step, ...]
    scratch: Mapping[str, Scratch] = field(default_factory=dict)


def run(
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    start: Start,
    empty: Callable[..., Tensor] | None = None,
) -> None:
    """Do what a recipe says with these tensors, the outputs among them.

    Args:
        recipe: Names every tensor that it has no scratch for.
        tensors: By these names, on one device.
        start: Starts a kernel.
        empty: Makes scratch tensors; by default torch's.
    """
    import torch

    device = next(iter(tensors.values())).device
    every = dict(tensors) | {
        name: (empty or torch.empty)(shape, dtype=getattr(torch, dtype), device=device)
        for name, (dtype, shape) in recipe.scratch.items()
    }
    for step in recipe.steps:
        arguments = {
            name: every[given] if isinstance(given, str) else given
            for name, given in step.given.items()
        }
        start(step.kernel, step.grid, arguments)


def dtype_of(tensor: Tensor) -> str:
    """Element type of a tensor, as torch names it: ``float16``."""
    return str(tensor.dtype).removeprefix("torch.")


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A torch tensor of the same numbers, bfloat16 among their types."""
    import torch

    ours = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(ours.view("uint16")).view(torch.bfloat16)
    return torch.from_numpy(ours)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """The inverse of :func:`tensor_of`."""
    import torch

    here = tensor.cpu()
    if here.dtype == torch.bfloat16:
        return np.asarray(here.view(torch.uint16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(here.numpy())
