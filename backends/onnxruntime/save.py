"""Writes a model file, its weights beside it where a protobuf cannot hold them."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from sparsecc.manifest import DATA_NAME, MODEL_NAME

EXTERNAL_BYTES = 512 << 20
"""Weights beyond this go into a file of their own; a protobuf holds less than 2 GB."""
EXTERNAL_TENSOR_BYTES = 1024


def weight_bytes(model: ir.Model) -> int:
    """Bytes of the model's initializers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def save_model(model: ir.Model, folder: Path, inline_bytes: int = EXTERNAL_BYTES) -> None:
    """Write ``model.onnx``; more bytes of weights than ``inline_bytes`` go into a data file."""
    path = folder / MODEL_NAME
    if weight_bytes(model) <= inline_bytes:
        ir.save(_inlined(model), path)
        return
    ir.save(model, path, external_data=DATA_NAME, size_threshold_bytes=EXTERNAL_TENSOR_BYTES)


def _inlined(model: ir.Model) -> ir.Model:
    """The model with weights of external files read into memory."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return model
