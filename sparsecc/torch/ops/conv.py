"""Convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op
from sparsecc.torch.ops.windows import Windows, pad, symmetric, windows_of

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def rank_of(node: NodeView) -> int:
    """Spatial axes of a convolution, from whatever says it."""
    for name, sides in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2)):
        numbers = node.get(name)
        if numbers is not None:
            rank = len(numbers) // sides
            break
    else:
        shapes = [v.shape for v in node.node.inputs[:2] if v is not None and v.shape is not None]
        if not shapes:
            raise node.refuse("nothing says how many axes it has")
        rank = len(shapes[0]) - 2
    if rank not in _CONV:
        raise node.refuse(f"{rank} spatial axes, torch has 1 to 3")
    return rank


def _conv(node: NodeView) -> Function:
    rank = rank_of(node)
    group = node.get("group", 1)
    windows = windows_of(node, rank, [1] * rank)
    convolve = _CONV[rank]
    strides, dilations = windows.strides, windows.dilations
    if windows.auto_pad in ("NOTSET", "VALID") and symmetric(windows.padding([0] * rank)):
        padding = [before for before, _ in windows.padding([0] * rank)]

        def conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            return convolve(x, w, b, strides, padding, dilations, group)

        return conv

    def padded_conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        pads = dataclasses.replace(windows, kernel=tuple(w.shape[2:])).padding(x.shape[2:])
        return convolve(pad(x, pads), w, b, strides, 0, dilations, group)

    return padded_conv


def _transposed(node: NodeView) -> Function:
    rank = rank_of(node)
    group = node.get("group", 1)
    extra = node.get("output_padding", [0] * rank)
    wanted = node.get("output_shape")
    windows = windows_of(node, rank, [1] * rank)
    convolve = _TRANSPOSED[rank]
    strides, dilations = windows.strides, windows.dilations
    by_size = wanted is not None or windows.auto_pad in ("SAME_UPPER", "SAME_LOWER")

    def conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        kernel = tuple(w.shape[2:])
        pads = windows.padding([0] * rank)
        if by_size:
            sized = dataclasses.replace(windows, kernel=kernel)
            pads = _pads_for_size(sized, x.shape[2:], extra, wanted)
        if symmetric(pads) and all(before >= 0 for before, _ in pads):
            small = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
            if small:
                padding = [before for before, _ in pads]
                return convolve(x, w, b, strides, padding, extra, group, dilations)
        full = convolve(x, w, None, strides, 0, 0, group, dilations)
        cropped = [(-p[0], e - p[1]) for p, e in zip(pads, extra, strict=True)]
        result = pad(full, cropped)
        return result if b is None else result + b.reshape(-1, *[1] * rank)

    return conv


def _pads_for_size(
    windows: Windows, sizes: Sequence[int], extra: Sequence[int], wanted: Sequence[int] | None
) -> list[tuple[int, int]]:
    """What is cropped so that the output has its size (ONNX ConvTranspose)."""
    pads = []
    rank = len(sizes)
    outputs = (
        [size * stride for size, stride in zip(sizes, windows.strides, strict=True)]
        if wanted is None
        else wanted[-rank:]
    )
    for axis, extent in enumerate(windows.extents):
        total = windows.strides[axis] * (sizes[axis] - 1) + extra[axis] + extent - outputs[axis]
        if wanted is None:
            total = max(0, total)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if windows.auto_pad == "SAME_UPPER" else (large, small))
    return pads


OPS: dict[str, Op] = {
    "Conv": Op(_conv, learned=(1, 2)),
    "ConvTranspose": Op(_transposed, learned=(1, 2)),
}
