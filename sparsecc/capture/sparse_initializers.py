"""Sparse initializers made dense before the IR sees them: onnx_ir drops them with a warning.

Format: https://onnx.ai/onnx/repo-docs/IR.html and `SparseTensorProto` in onnx.proto: values
`[NNZ]`, ascending indices either `[NNZ]` (positions in the flattened tensor) or `[NNZ, rank]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sparsecc.errors import ModelError

# A sparse tensor of a few bytes can claim any size, so what one model may unfold to is bounded;
# it is the size a protobuf file with the same weights stored densely could have.
MAX_DENSE_BYTES = 2 << 30


def densify(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every sparse initializer and sparse constant by a dense one.

    Returns:
        `proto` itself if it has none, else a changed copy.

    Raises:
        ModelError: Indices, values and dims disagree, or the dense tensors would be too large.
    """
    if not any(_is_sparse(graph) for graph in _graphs(proto)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    budget = MAX_DENSE_BYTES
    for graph in _graphs(copy):
        for sparse in graph.sparse_initializer:
            dense = _dense(sparse, budget)
            budget -= len(dense.raw_data)
            graph.initializer.append(dense)
        del graph.sparse_initializer[:]
        for attr in _sparse_constants(graph):
            dense = _dense(attr.sparse_tensor, budget)
            budget -= len(dense.raw_data)
            attr.ClearField("sparse_tensor")
            attr.name, attr.type = "value", onnx.AttributeProto.TENSOR
            attr.t.CopyFrom(dense)
    return copy


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    pending = [*proto.graph.node, *(node for f in proto.functions for node in f.node)]
    while pending:
        for attr in pending.pop().attribute:
            for graph in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
                yield graph
                pending.extend(graph.node)


def _is_sparse(graph: onnx.GraphProto) -> bool:
    return bool(graph.sparse_initializer) or any(True for _ in _sparse_constants(graph))


def _sparse_constants(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    for node in graph.node:
        for attr in node.attribute:
            if node.op_type == "Constant" and attr.name == "sparse_value":
                yield attr


def _dense(sparse: onnx.SparseTensorProto, budget: int) -> onnx.TensorProto:
    name, dims = sparse.values.name, list(sparse.dims)
    values = _array(sparse.values, name)
    indices = _array(sparse.indices, name)
    size = math.prod(dims)
    if not dims or min(dims) < 1 or size * values.itemsize > budget:
        raise _malformed(name, f"dims {dims} are not positive or exceed {MAX_DENSE_BYTES} bytes")
    if values.ndim != 1 or len(values) > size:
        raise _malformed(name, f"values of shape {values.shape} for dims {dims}")
    flat = _positions(name, indices, len(values), dims)
    dense = np.zeros(size, values.dtype)
    dense[flat] = values
    return numpy_helper.from_array(dense.reshape(dims), name)


def _positions(
    name: str, indices: NDArray[np.int64], count: int, dims: list[int]
) -> NDArray[np.int64]:
    """Positions in the flattened tensor from either form of indices."""
    if indices.shape == (count,):
        flat = indices
    elif indices.shape == (count, len(dims)):
        if np.any(indices < 0) or np.any(indices >= np.array(dims)):
            raise _malformed(name, f"an index lies outside dims {dims}")
        flat = indices @ np.array([math.prod(dims[i + 1 :]) for i in range(len(dims))], np.int64)
    else:
        raise _malformed(name, f"indices of shape {indices.shape} for {count} values")
    if count and (flat.min() < 0 or flat.max() >= math.prod(dims) or np.any(np.diff(flat) <= 0)):
        raise _malformed(name, f"indices are not ascending positions inside dims {dims}")
    return flat


def _array(tensor: onnx.TensorProto, name: str) -> NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise _malformed(name, "its values or indices are external data")
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:
        raise _malformed(name, str(error)) from error


def _malformed(name: str, what: str) -> ModelError:
    return ModelError(
        f"sparse initializer {name!r} cannot be read: {what}",
        fix="store the tensor as a dense initializer",
    )
