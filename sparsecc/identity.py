"""Which model is this? One hash over structure and weights."""

from __future__ import annotations

import hashlib
from typing import Protocol

import onnx_ir as ir


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def model_hash(model: ir.Model) -> str:
    """SHA-256 of a model's nodes, names and weights; notes of exporters do not count."""
    digest = hashlib.sha256()
    for value in (*model.graph.inputs, *model.graph.outputs):
        digest.update(f"{value.name} {value.type} {value.shape}\n".encode())
    functions = [function.graph for function in model.functions.values()]
    for graph in (*model.graphs(), *functions):
        _add_graph(digest, graph)
    return digest.hexdigest()


def _add_graph(digest: _Hash, graph: ir.Graph) -> None:
    for node in graph:
        inputs = [value.name if value is not None else "" for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        digest.update(f"{node.domain} {node.op_type} {inputs} {outputs}\n".encode())
        for _, attribute in sorted(node.attributes.items()):
            _add_attribute(digest, attribute)
    for name, value in sorted(graph.initializers.items()):
        if value.const_value is not None:
            _add_tensor(digest, name, value.const_value)


def _add_attribute(digest: _Hash, attribute: ir.Attr) -> None:
    """Graphs count where they are, among the model's graphs."""
    name, kind = attribute.name, attribute.type
    if attribute.is_ref():
        digest.update(f"{name} is {attribute.ref_attr_name}\n".encode())
    elif kind == ir.AttributeType.TENSOR:
        _add_tensor(digest, name, attribute.as_tensor())
    elif kind == ir.AttributeType.TENSORS:
        for tensor in attribute.as_tensors():
            _add_tensor(digest, name, tensor)
    elif kind not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        digest.update(f"{name}={attribute.value!r}\n".encode())


def _add_tensor(digest: _Hash, name: str, tensor: ir.TensorProtocol) -> None:
    digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
    digest.update(tensor.tobytes())
