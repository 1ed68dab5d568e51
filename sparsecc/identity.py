"""Which model is this? One hash over structure and weights."""

from __future__ import annotations

import hashlib

import onnx_ir as ir


def model_hash(model: ir.Model) -> str:
    """SHA-256 of a model's nodes, names and weights; notes of exporters do not count."""
    digest = hashlib.sha256()
    for value in (*model.graph.inputs, *model.graph.outputs):
        digest.update(f"{value.name} {value.type} {value.shape}\n".encode())
    for node in model.graph.all_nodes():
        inputs = [value.name if value is not None else "" for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        attributes = sorted(
            f"{name}={attribute}"
            for name, attribute in node.attributes.items()
            if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        )
        digest.update(f"{node.domain} {node.op_type} {inputs} {outputs} {attributes}\n".encode())
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None:
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(tensor.tobytes())
    return digest.hexdigest()
