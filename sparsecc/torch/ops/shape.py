"""Shapes: what moves elements, or only says how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparsecc.torch.ops.table import Function, NodeView, Op, as_list, plain
from sparsecc.torch.ops.windows import pad


def _shape(node: NodeView) -> Function:
    start, end = node.get("start", 0), node.get("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _reshape(node: NodeView) -> Function:
    if node.opset < 5:
        known = node.get("shape")
        node.ignore("consumed_inputs")
        return lambda x: x.reshape(_copied(known, x))
    zeros_are_sizes = node.get("allowzero", 0)
    known = node.numbers(1)
    if known is not None and (zeros_are_sizes or 0 not in known):
        return lambda x, _: x.reshape(known)

    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        sizes = as_list(shape) if known is None else known
        return x.reshape(sizes if zeros_are_sizes else _copied(sizes, x))

    return reshape


def _copied(sizes: Sequence[int], x: Tensor) -> list[int]:
    """Sizes, 0 for that of the input."""
    return [size or x.shape[axis] for axis, size in enumerate(sizes)]


def _flatten(node: NodeView) -> Function:
    axis = node.get("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        split = axis + x.dim() if axis < 0 else axis
        return x.reshape(x.shape[:split].numel(), x.shape[split:].numel())

    return flatten


def _squeeze(node: NodeView) -> Function:
    known = node.get("axes") if node.opset < 13 else node.numbers(1)

    def squeeze(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = known if given is None or known is not None else as_list(given)
        return x.squeeze(tuple(axes)) if axes else x.squeeze()

    return squeeze


def _unsqueeze(node: NodeView) -> Function:
    known = node.get("axes") if node.opset < 13 else node.numbers(1)
    if known is not None and len(known) == 1:
        (only,) = known
        return lambda x, _=None: x.unsqueeze(only)

    def unsqueeze(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = as_list(given) if known is None else known
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _transpose(node: NodeView) -> Function:
    order = node.get("perm")
    if order is None:
        return lambda x: x.permute(tuple(range(x.dim()))[::-1])
    return lambda x: x.permute(order)


def _concat(node: NodeView) -> Function:
    axis = node.get("axis", 1)
    return lambda *inputs: torch.cat(inputs, axis)


def _split(node: NodeView) -> Function:
    """Sizes are an attribute before opset 13, then an input; without any, equal parts."""
    axis = node.get("axis", 0)
    known = node.get("split") if node.opset < 13 else node.numbers(1)
    count = node.get("num_outputs", len(node.node.outputs))

    def split(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        sizes = known if given is None or known is not None else as_list(given)
        parts: tuple[Tensor, ...] = torch.split(x, sizes or -(-x.shape[axis] // count), axis)
        missing = count - len(parts)
        return parts + (x.narrow(axis, 0, 0),) * missing if missing > 0 else parts

    return split


def _slice(node: NodeView) -> Function:
    if node.opset < 10:
        known = [node.get("starts"), node.get("ends"), node.get("axes"), None]
        return lambda x: _sliced(x, *known)
    known = [node.numbers(position) for position in (1, 2, 3, 4)]
    fixed = all(node.has(p) == (known[p - 1] is not None) for p in (1, 2, 3, 4))
    if fixed:
        return lambda x, *_: _sliced(x, *known)

    def sliced(x: Tensor, *given: Tensor | None) -> Tensor:
        parts = [None if each is None else as_list(each) for each in given]
        return _sliced(x, *parts, *[None] * (4 - len(parts)))

    return sliced


def _sliced(
    x: Tensor,
    starts: list[int] | None,
    ends: list[int] | None,
    axes: list[int] | None,
    steps: list[int] | None,
) -> Tensor:
    """As numpy slices, and backwards too, which torch cannot."""
    assert starts is not None
    assert ends is not None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cuts = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            cuts[axis] = slice(start, end, step)
        else:
            places = range(*slice(start, end, step).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x[tuple(cuts)]


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, as_list(shape)))


def _tile(node: NodeView) -> Function:
    if node.opset < 6:
        raise node.refuse("Tile with tiles and axis is older than opset 6")
    return lambda x, repeats: x.repeat(as_list(repeats))


_PAD_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
"""Their names in numpy."""


def _pad(node: NodeView) -> Function:
    mode = node.get("mode", "constant")
    if mode != "constant" and mode not in _PAD_MODES:
        raise node.refuse(f"mode {mode!r}")
    if node.opset < 11:
        sides, value = node.get("pads") or node.get("paddings"), node.get("value", 0.0)
        return lambda x: _padded(x, sides, None, mode, value)
    known, filling, along = node.numbers(1), node.numbers(2), node.numbers(3)

    def padded(
        x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        sides = as_list(pads) if known is None else known
        fill = filling or as_list(value) or [0]
        where = along if along is not None or axes is None else as_list(axes)
        return _padded(x, sides, where, mode, fill[0])

    return padded


def _padded(
    x: Tensor, sides: Sequence[int], axes: Sequence[int] | None, mode: str, value: float
) -> Tensor:
    """Elements added before and after along axes; negative numbers take some away."""
    axes = range(x.dim()) if axes is None else axes
    pairs = [(0, 0)] * x.dim()
    for number, axis in enumerate(axes):
        pairs[axis] = (sides[number], sides[number + len(axes)])
    if mode == "constant":
        return pad(x, pairs, value)
    for axis, (before, after) in enumerate(pairs):
        if (before, after) == (0, 0):
            continue
        places = np.arange(x.shape[axis])[max(0, -before) : x.shape[axis] - max(0, -after)]
        places = np.pad(places, (max(0, before), max(0, after)), mode=_PAD_MODES[mode])  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(places).to(x.device))
    return x


def _depth_to_space(node: NodeView) -> Function:
    block, mode = node.get("blocksize"), node.get("mode", "DCR")

    def rearrange(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        depth = c // block**2
        if mode == "DCR":
            x = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            x = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(n, depth, h * block, w * block)

    return rearrange


def _space_to_depth(node: NodeView) -> Function:
    block = node.get("blocksize")
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)

    def rearrange(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // block, block, w // block, block).permute(order)
        return x.reshape(n, c * block**2, h // block, w // block)

    return rearrange


def _center_crop_pad(node: NodeView) -> Function:
    axes = node.get("axes")

    def crop_or_pad(x: Tensor, shape: Tensor) -> Tensor:
        pairs = [(0, 0)] * x.dim()
        for axis, wanted in zip(axes or range(x.dim()), as_list(shape), strict=True):
            extra = wanted - x.shape[axis]
            before = extra // 2 if extra > 0 else -(-extra // 2)
            pairs[axis] = (before, extra - before)
        return pad(x, pairs)

    return crop_or_pad


OPS: dict[str, Op] = {
    "CenterCropPad": Op(_center_crop_pad, host=(1,)),
    "Concat": Op(_concat),
    "DepthToSpace": Op(_depth_to_space),
    "Expand": Op(plain(_expand), host=(1,)),
    "Flatten": Op(_flatten),
    "Pad": Op(_pad, host=(1, 2, 3)),
    "Reshape": Op(_reshape, host=(1,)),
    "Shape": Op(_shape, makes_host=True),
    "Size": Op(plain(_size), makes_host=True),
    "Slice": Op(_slice, host=(1, 2, 3, 4)),
    "SpaceToDepth": Op(_space_to_depth),
    "Split": Op(_split, host=(1,)),
    "Squeeze": Op(_squeeze, host=(1,)),
    "Tile": Op(_tile, host=(1,)),
    "Transpose": Op(_transpose),
    "Unsqueeze": Op(_unsqueeze, host=(1,)),
}
