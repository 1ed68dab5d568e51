"""Capture: any form a trained model comes in, turned into the one IR (`onnx_ir.Model`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from onnx import ModelProto

from sparsecc.capture.onnx import capture_onnx
from sparsecc.capture.torch import capture_torch
from sparsecc.errors import ModelError

__all__ = ["capture", "capture_onnx", "capture_torch"]


def capture(
    model: object,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ir.Model:
    """Turn a trained model into the IR; the caller's object is left as it is.

    Args:
        model: A path to an ONNX file, an `onnx.ModelProto`, an `onnx_ir.Model`, a
            `torch.nn.Module`, a `torch.export.ExportedProgram` or a `torch.fx.GraphModule`.
        example_inputs: For torch: the arguments of one call, by position (sequence) or by name
            (mapping). Not used for ONNX.
        dynamic_shapes: For torch: which dimensions vary, as `torch.export.export` takes it.
            Not used for ONNX, whose files say it themselves.

    Returns:
        The model, with every node named the way the user's model names its layers.

    Raises:
        ModelError: The model cannot be read or exported.
    """
    if isinstance(model, (str, os.PathLike, ModelProto, ir.Model)):
        return capture_onnx(model)
    if _is_torch(model):
        return capture_torch(model, example_inputs, dynamic_shapes)
    raise ModelError(
        f"a {type(model).__module__}.{type(model).__qualname__} is not a model",
        fix="pass the path of an ONNX file, an onnx model, or a torch module",
    )


def _is_torch(model: object) -> bool:
    """Whether the object's class descends from torch, told without importing torch."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(model).__mro__)
