"""The ops of the domain, and what can be asked of every one: schema, portable body, check, shape.

The table :data:`OP_TYPES` is the one place; an op of another kind is another entry in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import defs, helper

from sparsecc.ops.attention_blocks import SEARCHES
from sparsecc.ops.block_sparse_attention import ATTENTIONS
from sparsecc.ops.layers import LAYERS
from sparsecc.ops.moe import MIXTURES
from sparsecc.ops.sparse_moe import PACKED_MIXTURES
from sparsecc.ops.spec import Dim, OpType
from sparsecc.ops.variants import DOMAIN, REGION, VERSION

OP_TYPES: dict[str, OpType] = LAYERS | ATTENTIONS | SEARCHES | MIXTURES | PACKED_MIXTURES


def is_ours(node: ir.Node) -> bool:
    """Whether a node is an op of the domain: a layer, attention, mixture or region's call."""
    return node.domain == DOMAIN


def is_sparse(node: ir.Node) -> bool:
    """Whether a node is a layer with a packed weight."""
    return is_ours(node) and node.op_type in LAYERS


def is_attention(node: ir.Node) -> bool:
    """Whether a node is a block-sparse attention."""
    return is_ours(node) and node.op_type in ATTENTIONS


def is_search(node: ir.Node) -> bool:
    """Whether a node finds blocks for block-sparse attentions."""
    return is_ours(node) and node.op_type in SEARCHES


def is_mixture(node: ir.Node) -> bool:
    """Whether a node is a mixture of experts, packed or not."""
    return is_ours(node) and (node.op_type in MIXTURES or node.op_type in PACKED_MIXTURES)


def is_packed_mixture(node: ir.Node) -> bool:
    """Whether a node is a mixture of experts with packed weights."""
    return is_ours(node) and node.op_type in PACKED_MIXTURES


def is_region(node: ir.Node) -> bool:
    """Whether a node calls a region: a function whose body is other nodes of the model."""
    return is_ours(node) and node.op_type.startswith(REGION)


def input_names(op_type: str) -> list[str]:
    """Names of the inputs of an op type, in order (KeyError if the domain has no such op)."""
    return list(OP_TYPES[op_type].inputs)


def function(op_type: str, opset: int) -> onnx.FunctionProto:
    """Portable body of an op in standard ops.

    Args:
        op_type: A key of :data:`OP_TYPES`.
        opset: Default-domain opset of the model that will hold the function, at least its
            ``least_opset``.
    """
    declared = OP_TYPES[op_type]
    return helper.make_function(
        DOMAIN,
        op_type,
        list(declared.inputs),
        ["Y"],
        declared.body(),
        [helper.make_opsetid("", opset)],
        attributes=list(declared.attributes),
        doc_string=declared.doc,
    )


def region_functions(model: ir.Model) -> dict[ir.OperatorIdentifier, ir.Function]:
    """The bodies of the regions that the main graph calls."""
    called = [node.op_identifier() for node in model.graph.all_nodes() if is_region(node)]
    return {key: model.functions[key] for key in called if key in model.functions}


def attach_functions(model: ir.Model) -> None:
    """Give the model the body of every op of the domain that it uses, and no other."""
    regions = region_functions(model)
    graphs = [model.graph, *(body.graph for body in regions.values())]
    nodes = [node for graph in graphs for node in graph.all_nodes() if is_ours(node)]
    used = {node.op_type for node in nodes if not is_region(node)}
    for key in [key for key in model.functions if key[0] == DOMAIN and key not in regions]:
        del model.functions[key]
    if not nodes:
        model.opset_imports.pop(DOMAIN, None)
        return
    model.opset_imports[DOMAIN] = VERSION
    for op_type in sorted(used):
        body = ir.serde.deserialize_function(function(op_type, model.opset_imports[""]))
        model.functions[(DOMAIN, op_type, "")] = body


def check_node(node: ir.Node) -> None:
    """Check a node of the domain against its declaration.

    Raises:
        ValueError: What disagrees, with the values.
    """
    if node.op_type not in OP_TYPES:
        raise ValueError(f"the domain {DOMAIN!r} has no op {node.op_type!r}")
    declared, names = OP_TYPES[node.op_type], input_names(node.op_type)
    if len(node.inputs) != len(names) or any(value is None for value in node.inputs):
        raise ValueError(f"{node.op_type} wants the inputs {', '.join(names)}")
    if set(node.attributes) != set(declared.attributes):
        raise ValueError(f"{node.op_type} wants the attributes {list(declared.attributes)}")
    declared.check(node)


def infer_shape(node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    """Output shape of a node for the shape of its first input (ValueError on a contradiction)."""
    return OP_TYPES[node.op_type].infer(node, x)


def output_type(node: ir.Node) -> ir.TensorType:
    """Element type of the output of a node."""
    kind = OP_TYPES[node.op_type].output
    return ir.TensorType(ir.DataType.FLOAT if kind == "T" else ir.DataType.INT32)


def schema(op_type: str) -> defs.OpSchema:
    """ONNX schema of an op type, for checkers and editors."""
    declared = OP_TYPES[op_type]
    return defs.OpSchema(
        op_type,
        DOMAIN,
        VERSION,
        doc=declared.doc,
        inputs=[
            defs.OpSchema.FormalParameter(name, kind) for name, kind in declared.inputs.items()
        ],
        outputs=[defs.OpSchema.FormalParameter("Y", declared.output)],
        type_constraints=[("T", ["tensor(float)"], "Activations, weights, biases and mask.")],
        attributes=[
            defs.OpSchema.Attribute(name, kind) for name, kind in declared.attributes.items()
        ],
    )
