"""Attention over kept tiles by the kernels of ``backends/cuda``, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.recipe import dtype_of
from sparsecc.backends.cuda.rows.attention import FORWARD, KEYS, QUERIES
from sparsecc.errors import BackendError

Start = Callable[[Kernel, Sequence[int], Mapping[str, Any]], object]
"""Starts a kernel over a grid, as :func:`sparsecc.backends.cuda.launch.launch`."""


@dataclass(frozen=True)
class Listed:
    """The tiles of an attention on a device, as the operator is given them.

    Attributes:
        order: Rows to compute, those of heads one after the other in any order.
        rows: ``starts``, ``full``, ``at`` and ``bits`` of :class:`Tiles`.
        columns: The same by keys; empty where there are no gradients.
        places: Of tokens in the order of each pattern, or None.
        tile: Queries and keys of a tile.
        sizes: :data:`sparsecc.backends.cuda.attention.SIZES`.
    """

    order: Tensor
    rows: Sequence[Tensor]
    columns: Sequence[Tensor]
    places: Tensor | None
    tile: Sequence[int]
    sizes: Sequence[int]

    def kernel(self, q: Tensor, arch: Arch, part: str = FORWARD) -> Kernel:
        """The row of the table.

        Raises:
            BackendError: There is none, or tiles are those of another architecture.
            TargetError: It is not built for this one.
        """
        dtype = dtype_of(q)
        ordered = self.places is not None
        kernel = kernels.kernel_of(dtype, q.shape[3], self.tile[0], ordered, part)
        columns = kernel.constants_on(arch)["COLUMNS"]
        if columns != self.tile[1]:
            raise BackendError(
                f"tiles of {self.tile[1]} keys, kernels of this GPU take {columns}",
                fix=f"make the TileAttention with arch={arch!r}",
            )
        return kernel

    def indices(self, order: Tensor, lists: Sequence[Tensor]) -> dict[str, Tensor]:
        """Indices of a kernel by name."""
        named = dict(zip(("Order", *kernels.LISTS), (order, *lists), strict=True))
        return named if self.places is None else {**named, "Places": self.places}

    def numbers(self) -> dict[str, int]:
        """Numbers of tiles by name."""
        return dict(zip(kernels.SIZES, self.sizes, strict=True))


def attend(
    start: Start,
    arch: Arch,
    tokens: Sequence[Tensor],
    listed: Listed,
    scale: float,
    made: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The output and the log-sum-exp.

    Args:
        start: Starts the kernel.
        arch: Of the device.
        tokens: Queries ``[B, H, L, D]``, keys and values.
        listed: Tiles.
        scale: Of scores.
        made: Is written to.
    """
    q, k, v = tokens
    kernel = listed.kernel(q, arch)
    if scale <= 0:  # the kernel's maximum is of scores that are scaled up
        q, scale = (-q, -scale) if scale else (torch.zeros_like(q), 1.0)
    out, lse = made
    named = {"Q": q, "K": k, "V": v, "Out": out}
    lying = {name: aligned(each) for name, each in named.items()}
    given = kernels.arguments(
        lying,
        {"Lse": lse},
        indices=listed.indices(listed.order, listed.rows),
        sizes=listed.numbers(),
        scale=scale,
    )
    start(kernel, kernels.grid_of(listed.order, q), given)
    return (out if lying["Out"] is out else out.copy_(lying["Out"])), lse


def gradients(
    start: Start,
    arch: Arch,
    tokens: Mapping[str, Tensor],
    lse: Tensor,
    listed: Listed,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values.

    Args:
        start: Starts a kernel.
        arch: Of the device.
        tokens: Q, K, V, Out and Grad, which is that of Out.
        lse: Of the forward.
        listed: Tiles.
        scale: Of scores.

    Raises:
        BackendError: Tiles are not listed by their keys.
    """
    if not listed.columns:
        raise BackendError(
            "no gradients of attention whose blocks are searched while it samples",
            fix="call it under torch.no_grad(), or train with a plan without online",
        )
    q, k = tokens["Q"], tokens["K"]
    heads, shared = q.shape[1], k.shape[1]
    lying = {name: aligned(each) for name, each in tokens.items()}
    delta = torch.empty_like(lse)
    of_queries = q.new_empty(q.shape)
    kernel, numbers = listed.kernel(q, arch, QUERIES), listed.numbers()
    given = kernels.arguments(
        {**lying, "DQ": of_queries},
        {"Lse": lse, "Delta": delta},
        indices=listed.indices(listed.order, listed.rows),
        sizes=numbers,
        scale=scale,
    )
    start(kernel, kernels.grid_of(listed.order, q), given)

    kernel = listed.kernel(q, arch, KEYS)
    # heads with tokens in orders of their own have other keys in a tile, and are summed below
    together = heads // shared if listed.places is None else 1
    order = _order_by_keys(listed.columns[0], numbers["pattern_heads"], heads, together)
    shape = k.shape[0], heads // together, *k.shape[2:]
    of_keys, of_values = k.new_empty(shape), k.new_empty(shape)
    del lying["Out"]
    given = kernels.arguments(
        {**lying, "DK": of_keys, "DV": of_values},
        {"Lse": lse, "Delta": delta},
        indices=listed.indices(order, listed.columns),
        sizes=numbers | {"tiles": order.shape[0] // shape[1], "together": together},
        scale=scale,
    )
    start(kernel, kernels.grid_of(order, q), given)
    return of_queries, *(_summed(each, shared) for each in (of_keys, of_values))


def _order_by_keys(starts: Tensor, patterns: int, heads: int, together: int) -> Tensor:
    """Tiles of keys of so many heads at a time, those with the most tiles of queries first."""
    of_patterns = starts.diff().view(patterns, -1)
    of_heads = of_patterns.repeat(heads // patterns, 1)
    counts = of_heads.view(heads // together, together, -1).sum(1)
    return counts.flatten().argsort(descending=True, stable=True).int()


def _summed(gradients: Tensor, heads: int) -> Tensor:
    if gradients.shape[1] == heads:
        return gradients
    return gradients.unflatten(1, (heads, -1)).sum(2, dtype=torch.float32).to(gradients.dtype)


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it that kernels can read."""
    aligned = kernels.is_aligned(tensor.stride(), tensor.data_ptr())
    return tensor if aligned else tensor.clone(memory_format=torch.contiguous_format)
