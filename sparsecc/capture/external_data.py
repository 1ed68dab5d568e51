"""Checks on weights that a model keeps in other files, before anybody opens those files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir

from sparsecc.errors import ModelError


def check(model: ir.Model) -> None:
    """Check every external tensor of `model`; reads no data.

    Raises:
        ModelError: A data file is missing, too short, or outside the model's folder (by an
            absolute path, by "..", by a symbolic or a hard link); names the tensor and the file.
    """
    files: dict[tuple[str, str], int] = {}
    for tensor in tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        key = (os.fspath(tensor.base_dir), os.fspath(tensor.location))
        if key not in files:
            files[key] = _size_of_file(tensor)
        _check_range(tensor, files[key])


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor of `model`: initializers and tensor attributes, subgraphs and functions too."""
    graphs = list(model.graphs())
    for graph in graphs:
        yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
    for graph in (*graphs, *(function.graph for function in model.functions.values())):
        for node in graph:
            for attr in node.attributes.values():
                if attr.is_ref():
                    continue
                if attr.type == ir.AttributeType.TENSOR:
                    yield attr.as_tensor()
                elif attr.type == ir.AttributeType.TENSORS:
                    yield from attr.as_tensors()


def _size_of_file(tensor: ir.ExternalTensor) -> int:
    """Size in bytes of the tensor's data file, once it is known to be inside the folder."""
    location = os.fspath(tensor.location)
    if not os.fspath(tensor.base_dir):
        raise ModelError(
            f"tensor {tensor.name!r} keeps its data in {location!r}, but a model in memory does "
            "not know the folder of that file",
            fix="pass the path of the model's file instead",
        )
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    absolute = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    if not location or absolute or ".." in parts:
        raise _outside(tensor, location)
    folder = Path(tensor.base_dir).resolve()
    file = folder / location
    try:
        inside = file.resolve(strict=True).is_relative_to(folder)
        status = file.stat()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"tensor {tensor.name!r} keeps its data in {str(file)!r}, which cannot be read",
            fix="put the data file beside the model, under the name the model gives it",
        ) from error
    if not inside or not file.is_file() or status.st_nlink > 1:
        raise _outside(tensor, location)
    return status.st_size


def _check_range(tensor: ir.ExternalTensor, size: int) -> None:
    start, length = tensor.offset or 0, tensor.length
    needed = tensor.nbytes
    if start < 0 or (length is not None and length != needed) or start + needed > size:
        raise ModelError(
            f"tensor {tensor.name!r} of shape {tensor.shape} needs {needed} bytes at {start} of "
            f"{os.fspath(tensor.location)!r}, which holds {size} bytes",
            fix="the data file is truncated or of another model: copy or export it again",
        )


def _outside(tensor: ir.ExternalTensor, location: str) -> ModelError:
    return ModelError(
        f"tensor {tensor.name!r} keeps its data in {location!r}, outside the model's folder",
        fix="copy the data file itself (no link) into the model's folder and name it without '..'",
    )
