"""Spectra."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsecc.torch.ops.create import known_dtype
from sparsecc.torch.ops.table import Function, NodeView, Op


def _complex(x: Tensor) -> Tensor:
    """``[..., 1]`` or ``[..., 2]``, real and imaginary part, as real or complex numbers."""
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _dft(node: NodeView) -> Function:
    """The axis is an attribute before opset 20, then an input."""
    inverse, half = node.get("inverse", 0), node.get("onesided", 0)
    fixed = node.get("axis", 1) if node.opset < 20 else None

    def dft(x: Tensor, length: Tensor | None = None, along: Tensor | None = None) -> Tensor:
        axis = (-2 if along is None else int(along)) if fixed is None else fixed
        axis %= x.dim()
        size = None if length is None else int(length)
        if inverse and half:
            return torch.fft.irfft(_complex(x), size, axis).unsqueeze(-1)
        values = _complex(x)
        result = (torch.fft.ifft if inverse else torch.fft.fft)(values, size, axis)
        if half:
            result = result.narrow(axis, 0, result.shape[axis] // 2 + 1)
        return torch.view_as_real(result)

    return dft


def _stft(node: NodeView) -> Function:
    half = node.get("onesided", 1)

    def stft(
        x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
    ) -> Tensor:
        signal = _complex(x) if x.dim() == 3 else x
        if length is not None:
            size = int(length)
        else:
            size = signal.shape[-1] if window is None else len(window)
        frames = signal.unfold(-1, size, int(step))
        frames = frames if window is None else frames * window
        result = torch.fft.fft(frames)
        return torch.view_as_real(result[..., : size // 2 + 1] if half else result)

    return stft


def _mel_weights(node: NodeView) -> Function:
    dtype = known_dtype(node, node.get("output_datatype", ir.DataType.FLOAT))
    device = node.device

    def weights(
        bins: Tensor, length: Tensor, rate: Tensor, lowest: Tensor, highest: Tensor
    ) -> Tensor:
        """Triangles between points at equal distances on the mel scale (ONNX MelWeightMatrix)."""
        count, size = int(bins), int(length)
        low, high = (2595 * np.log10(1 + float(edge) / 700) for edge in (lowest, highest))
        mels = low + np.arange(count + 2) * ((high - low) / (count + 2))
        hertz = 700 * (10 ** (mels / 2595) - 1)
        points = ((size + 1) * hertz // int(rate)).astype(int)
        result = np.zeros((size // 2 + 1, count))
        rows = np.arange(len(result))
        for column, (left, top, right) in enumerate(zip(points, points[1:], points[2:])):  # noqa: B905
            rising = (rows - left) / max(1, top - left)
            falling = (right - rows) / max(1, right - top)
            result[left : top + 1, column] = rising[left : top + 1]
            if left == top:
                result[top, column] = 1
            if right > top:
                result[top:right, column] = falling[top:right]
        return torch.from_numpy(result).to(device, dtype)

    return weights


OPS: dict[str, Op] = {
    "DFT": Op(_dft, host=(1, 2)),
    "MelWeightMatrix": Op(_mel_weights, host=(0, 1, 2, 3, 4)),
    "STFT": Op(_stft, host=(1, 3)),
}
