"""Pools."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.conv import rank_of
from sparsecc.torch.ops.table import Function, NodeView, Op, plain
from sparsecc.torch.ops.windows import Windows, pad, symmetric, windows_of

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _fitted(
    windows: Windows, sizes: Sequence[int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Padding, and the padding (or cropping) after which exactly the windows fit."""
    pads = windows.padding(sizes)
    counts = windows.counts(sizes, pads)
    fitted = [
        (before, (count - 1) * stride + extent - size - before)
        for (before, _), count, stride, extent, size in zip(
            pads, counts, windows.strides, windows.extents, sizes, strict=True
        )
    ]
    return pads, fitted


def _torch_pads(windows: Windows) -> list[int] | None:
    """The padding as torch's pools take it, if they do."""
    if windows.ceil or windows.auto_pad not in ("NOTSET", "VALID"):
        return None
    pads = windows.padding([0] * len(windows.kernel))
    if not symmetric(pads):
        return None
    small = all(2 * before <= k for (before, _), k in zip(pads, windows.kernel, strict=True))
    return [before for before, _ in pads] if small else None


def _max_pool(node: NodeView) -> Function:
    rank = rank_of(node)
    windows = windows_of(node, rank)
    pool, settings = _MAX[rank], (windows.kernel, windows.strides)
    column_major = node.get("storage_order", 0)
    if node.wants(1):
        return lambda x: _max_pool_with_indices(x, windows, bool(column_major))
    padding = _torch_pads(windows)
    if padding is not None:

        def max_pool(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return pool(x.double(), *settings, padding, windows.dilations).to(x.dtype)
            return pool(x, *settings, padding, windows.dilations)

        return max_pool

    def padded(x: Tensor) -> Tensor:
        wide = x if x.is_floating_point() else x.double()
        _, fitted = _fitted(windows, x.shape[2:])
        wide = pad(wide, fitted, -torch.inf)
        return pool(wide, *settings, 0, windows.dilations).to(x.dtype)

    return padded


def _max_pool_with_indices(
    x: Tensor, windows: Windows, column_major: bool
) -> tuple[Tensor, Tensor]:
    """The largest of each window, and where in the whole tensor it stands."""
    rank, sizes = len(windows.kernel), x.shape[2:]
    _, fitted = _fitted(windows, sizes)
    wide = pad(x if x.is_floating_point() else x.double(), fitted, -torch.inf)
    values, flat = _MAX[rank](
        wide, windows.kernel, windows.strides, 0, windows.dilations, return_indices=True
    )
    place = torch.zeros_like(flat)
    steps = np.cumprod([1, *sizes[:-1]] if column_major else [1, *sizes[:0:-1]]).tolist()
    steps = steps if column_major else steps[::-1]
    for axis in reversed(range(rank)):
        side = wide.shape[2 + axis]
        place += (flat % side - fitted[axis][0]) * steps[axis]
        flat = flat // side
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * sizes.numel()
    place += planes.reshape(x.shape[0], x.shape[1], *[1] * rank)
    return values.to(x.dtype), place


def _sums(x: Tensor, windows: Windows) -> Tensor:
    """Sums of the windows of an input in which exactly the windows fit."""
    rank = len(windows.kernel)
    if set(windows.dilations) == {1}:
        average = _AVERAGE[rank](x, windows.kernel, windows.strides)
        return average * float(np.prod(windows.kernel))
    ones = torch.ones((x.shape[1], 1, *windows.kernel), dtype=x.dtype, device=x.device)
    return _CONV[rank](x, ones, None, windows.strides, 0, windows.dilations, x.shape[1])


@functools.lru_cache(maxsize=256)
def _members(
    windows: Windows, sizes: tuple[int, ...], with_padding: bool
) -> tuple[tuple[int, ...], ...]:
    """How many elements of the input (and its padding) every window has, along every axis."""
    pads, fitted = _fitted(windows, sizes)
    found = []
    for axis, size in enumerate(sizes):
        before, after = pads[axis]
        inside = np.zeros(size + sum(fitted[axis]) + max(0, -fitted[axis][1]))
        start, stop = (0, before + size + after) if with_padding else (before, before + size)
        inside[start:stop] = 1
        count = (size + sum(fitted[axis]) - windows.extents[axis]) // windows.strides[axis] + 1
        taps = np.arange(windows.kernel[axis]) * windows.dilations[axis]
        starts = np.arange(count) * windows.strides[axis]
        found.append(tuple(inside[starts[:, None] + taps].sum(1).astype(int).tolist()))
    return tuple(found)


def _average_pool(node: NodeView) -> Function:
    rank = rank_of(node)
    windows = windows_of(node, rank)
    with_padding = bool(node.get("count_include_pad", 0))
    padding = _torch_pads(windows)
    if padding is not None and set(windows.dilations) == {1}:
        pool, settings = _AVERAGE[rank], (windows.kernel, windows.strides, padding, False)
        return lambda x: pool(x, *settings, with_padding)

    def average(x: Tensor) -> Tensor:
        sizes = tuple(x.shape[2:])
        _, fitted = _fitted(windows, sizes)
        sums = _sums(pad(x, fitted), windows)
        for axis, members in enumerate(_members(windows, sizes, with_padding)):
            counts = torch.tensor(members, dtype=x.dtype, device=x.device)
            sums = sums / counts.reshape(-1, *[1] * (rank - 1 - axis))
        return sums

    return average


def _lp_pool(node: NodeView) -> Function:
    windows = windows_of(node, rank_of(node))
    p = node.get("p", 2)

    def lp_pool(x: Tensor) -> Tensor:
        _, fitted = _fitted(windows, x.shape[2:])
        return _sums(pad(x.abs().pow(p), fitted), windows).pow(1 / p)

    return lp_pool


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _global_average(x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


def _global_lp(node: NodeView) -> Function:
    p = node.get("p", 2)
    return lambda x: torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)


OPS: dict[str, Op] = {
    "AveragePool": Op(_average_pool),
    "GlobalAveragePool": Op(plain(_global_average)),
    "GlobalLpPool": Op(_global_lp),
    "GlobalMaxPool": Op(plain(_global_max)),
    "LpPool": Op(_lp_pool),
    "MaxPool": Op(_max_pool),
}
