"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from sparsecc.padding import same_padding
from sparsecc.torch.ops.table import NodeView


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows along every spatial axis.

    Attributes:
        kernel: Taps of a window.
        strides: Steps from one window to the next.
        dilations: Steps from one tap to the next.
        pads: Elements (before, after), where `auto_pad` does not say so.
        auto_pad: "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
        ceil: Whether a last window may reach beyond the padding.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    auto_pad: str = "NOTSET"
    ceil: bool = False

    @property
    def extents(self) -> list[int]:
        """From the first tap of a window to its last, both included."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Elements before and after, along every axis, for an input of these sizes."""
        if self.auto_pad == "VALID":
            return [(0, 0)] * len(sizes)
        if self.auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
            return list(self.pads)
        return [
            same_padding(size, extent, stride, self.auto_pad)
            for size, stride, extent in zip(sizes, self.strides, self.extents, strict=True)
        ]

    def counts(self, sizes: Sequence[int], pads: Sequence[tuple[int, int]]) -> list[int]:
        """How many windows there are along every axis."""
        counts = []
        for size, pad, stride, extent in zip(sizes, pads, self.strides, self.extents, strict=True):
            free = size + sum(pad) - extent
            count = (-(-free // stride) if self.ceil else free // stride) + 1
            if self.ceil and (count - 1) * stride >= size + pad[0]:
                count -= 1  # a window that starts in the padding after the input is none
            counts.append(count)
        return counts


def windows_of(node: NodeView, rank: int, kernel: Sequence[int] | None = None) -> Windows:
    """The windows that the attributes of a node describe.

    Args:
        node: A convolution or pool.
        rank: Number of spatial axes.
        kernel: Taps, where the attribute `kernel_shape` is not to say it.
    """
    pads = node.get("pads", [0] * (2 * rank))
    taps = node.get("kernel_shape", kernel) if kernel is None else kernel
    node.ignore("kernel_shape")
    return Windows(
        kernel=tuple(taps),
        strides=tuple(node.get("strides", [1] * rank)),
        dilations=tuple(node.get("dilations", [1] * rank)),
        pads=tuple(zip(pads[:rank], pads[rank:], strict=True)),
        auto_pad=node.get("auto_pad", "NOTSET") or "NOTSET",
        ceil=bool(node.get("ceil_mode", 0)),
    )


def symmetric(pads: Sequence[tuple[int, int]]) -> bool:
    """Whether as much is padded before as after."""
    return all(before == after for before, after in pads)


def pad(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0) -> Tensor:
    """`x` with its last axes padded, or cropped where a number is negative."""
    flat = [side for pair in reversed(pads) for side in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x
