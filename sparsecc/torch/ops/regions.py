"""Regions of images, and windows put back in their places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op, as_list
from sparsecc.torch.ops.windows import pad


def _col_to_im(node: NodeView) -> Function:
    dilations, strides, pads = node.get("dilations"), node.get("strides"), node.get("pads")

    def fold(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        sizes, kernel = as_list(image), as_list(block)
        rank = len(sizes)
        if rank > 2:
            return _fold_by_places(x, sizes, kernel, strides, dilations, pads)
        sides = pads or [0] * (2 * rank)
        before, after = sides[:rank], sides[rank:]
        padded = [s + a + b for s, a, b in zip(sizes, before, after, strict=True)]
        result = functional.fold(x, padded, kernel, dilations or 1, 0, strides or 1)
        return pad(result, [(-a, -b) for a, b in zip(before, after, strict=True)])

    return fold


def _fold_by_places(
    x: Tensor,
    sizes: list[int],
    kernel: list[int],
    strides: list[int] | None,
    dilations: list[int] | None,
    pads: list[int] | None,
) -> Tensor:
    """Any number of axes: every tap is added to its place in the padded image."""
    rank = len(sizes)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads or [0] * (2 * rank)
    padded = [size + pads[at] + pads[at + rank] for at, size in enumerate(sizes)]
    flat = torch.zeros(1, 1, dtype=torch.int64, device=x.device)
    for at in range(rank):
        count = (padded[at] - (kernel[at] - 1) * dilations[at] - 1) // strides[at] + 1
        taps = torch.arange(kernel[at], device=x.device) * dilations[at]
        starts = torch.arange(count, device=x.device) * strides[at]
        places = taps[:, None] + starts
        flat = flat[:, None, :, None] * padded[at] + places[None, :, None, :]
        flat = flat.reshape(flat.shape[0] * flat.shape[1], -1)
    windows = x.reshape(x.shape[0], -1, flat.numel())
    image = windows.new_zeros(*windows.shape[:2], int(torch.tensor(padded).prod()))
    image = image.index_add(2, flat.reshape(-1), windows).reshape(*windows.shape[:2], *padded)
    return pad(image, [(-pads[at], -pads[at + rank]) for at in range(rank)])


def _max_unpool(node: NodeView) -> Function:
    kernel = node.get("kernel_shape")
    rank = len(kernel)
    strides = node.get("strides", [1] * rank)
    pads = node.get("pads", [0] * (2 * rank))

    def unpool(x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
        sizes = [
            (x.shape[2 + at] - 1) * strides[at] + kernel[at] - pads[at] - pads[at + rank]
            for at in range(rank)
        ]
        own = [*x.shape[:2], *sizes]
        flat = x.new_zeros(int(torch.tensor(own).prod()))
        made = flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(own)
        if shape is None:
            return made
        wanted = as_list(shape)
        return pad(made, [(0, w - s) for w, s in zip(wanted, own, strict=True)])

    return unpool


def _roi_align(node: NodeView) -> Function:
    mode, scale = node.get("mode", "avg"), node.get("spatial_scale", 1.0)
    height, width = node.get("output_height", 1), node.get("output_width", 1)
    ratio = node.get("sampling_ratio", 0)
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    half = node.get("coordinate_transformation_mode", default) == "half_pixel"
    if mode not in ("avg", "max"):
        raise node.refuse(f"mode {mode!r}")

    def align(x: Tensor, rois: Tensor, images: Tensor) -> Tensor:
        boxes = rois * scale - (0.5 if half else 0.0)
        return (
            torch.stack(
                [
                    _roi(x[image], box, (height, width), ratio, half, mode)
                    for image, box in zip(images.tolist(), boxes, strict=True)
                ]
            )
            if len(boxes)
            else x.new_zeros(0, x.shape[1], height, width)
        )

    return align


def _roi(
    image: Tensor, box: Tensor, sizes: tuple[int, int], ratio: int, half: bool, mode: str
) -> Tensor:
    """``[C, height, width]`` of one box: samples on a grid, their mean or largest part."""
    parts = []
    for axis, count in enumerate(sizes):
        start, end = box[1 - axis], box[3 - axis]
        length = end - start if half else (end - start).clamp(min=1)
        taps = ratio if ratio > 0 else max(1, int(torch.ceil(length / count)))
        steps = (torch.arange(count * taps, device=image.device) + 0.5) / taps
        at = start + steps * (length / count)
        size = image.shape[1 + axis]
        inside = ((at >= -1) & (at <= size)).to(image.dtype)
        at = at.clamp(0, size - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = at - low
        parts.append((taps, [(low, (1 - share) * inside), (high, share * inside)]))
    (rows, ys), (columns, xs) = parts
    corners = [image[:, y][:, :, x] * wy[:, None] * wx for y, wy in ys for x, wx in xs]
    blocks = torch.stack(corners).unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    if mode == "max":
        return blocks.amax((0, 3, 5))
    return blocks.sum(0).mean((2, 4))


OPS: dict[str, Op] = {
    "Col2Im": Op(_col_to_im, host=(1, 2)),
    "MaxUnpool": Op(_max_unpool, host=(2,)),
    "RoiAlign": Op(_roi_align),
}
