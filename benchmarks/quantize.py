"""Models of eight-bit weights and activations: QDQ form, made by ONNX Runtime's own tool.

Everyone runs the same file, so a ratio says what a runtime makes of int8, not of the quantizer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

PREFIX = "int8:"
TOLERANCE = 0.2
"""Largest accepted error over the largest value: a byte rounded otherwise early on moves many of
later layers, the more so with random weights."""

Feeds = Mapping[str, NDArray[Any]]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def float_pattern(pattern: str) -> str:
    """The zeros of a pattern such as "int8:4x4:0.8", or the pattern itself."""
    return pattern.removeprefix(PREFIX)


def is_int8(pattern: str) -> bool:
    """Whether a pattern asks for eight bits."""
    return pattern.startswith(PREFIX)


def quantized(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> onnx.ModelProto:
    """The model with unsigned activations and signed weights, a scale for each output.

    Args:
        model: A float32 model.
        feeds: Inputs that the ranges of the activations are taken from.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "qdq.onnx")
        quantize_static(
            model,
            path,
            _Reader(feeds),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)
