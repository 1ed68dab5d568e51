"""The padding that ONNX's ``auto_pad`` stands for."""

from __future__ import annotations


def same_padding(size: int, extent: int, stride: int, auto_pad: str) -> tuple[int, int]:
    """Elements before and after, along one axis, for ``SAME_UPPER`` or ``SAME_LOWER``.

    Args:
        size: Of the input; with a stride of 1 it makes no difference.
        extent: From the first tap of a window to its last, both included.
        stride: From one window to the next.
        auto_pad: Which of the two, the odd element after or before.
    """
    total = max(0, (-(-size // stride) - 1) * stride + extent - size)
    small, large = total // 2, total - total // 2
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


__all__ = ["same_padding"]
