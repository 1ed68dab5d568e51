"""Writes a model file, its weights beside it where a protobuf cannot hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from sparsecc.manifest import DATA_NAME, MODEL_NAME

EXTERNAL_BYTES = 16 << 20
"""Weights beyond this go into a file of their own, which ONNX Runtime maps and kernels read there.

Those in a protobuf are copied to memory, and it holds less than 2 GB.
"""
EXTERNAL_TENSOR_BYTES = 1024


def weight_bytes(model: ir.Model) -> int:
    """Bytes of the model's initializers, those of subgraphs too."""
    tensors = (value.const_value for value in _initializers(model))
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def save_model(model: ir.Model, folder: Path, inline_bytes: int = EXTERNAL_BYTES) -> None:
    """Write ``model.onnx``; more bytes of weights than ``inline_bytes`` go into a data file."""
    path = folder / MODEL_NAME
    if weight_bytes(model) <= inline_bytes:
        _read_in(model, inline_bytes)
        ir.save(model, path)
        return
    # Before onnx_ir does it, which then closes files that arrays elsewhere still look into.
    _read_in(model, EXTERNAL_TENSOR_BYTES)
    ir.save(model, path, external_data=DATA_NAME, size_threshold_bytes=EXTERNAL_TENSOR_BYTES)


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()


def _read_in(model: ir.Model, largest: int) -> None:
    """Read weights of external files, of at most ``largest`` bytes each, into memory."""
    for value in _initializers(model):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= largest:
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
