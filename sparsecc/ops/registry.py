"""The ops of the domain: schema, portable body, numpy meaning and check of every variant."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx import defs, helper

from sparsecc.formats.blocks import BlockWeight, unpack_blocks
from sparsecc.ops import activations, packed
from sparsecc.ops.sparse_conv import SPARSE_CONV
from sparsecc.ops.sparse_matmul import SPARSE_MATMUL
from sparsecc.ops.spec import Array, Attributes, Call, Dim, OpSpec
from sparsecc.ops.variants import DOMAIN, REGION, VARIANTS, VERSION, parse

SPECS: dict[str, OpSpec] = {spec.base: spec for spec in (SPARSE_CONV, SPARSE_MATMUL)}


def is_sparse(node: ir.Node) -> bool:
    """Whether a node is an op of the domain."""
    return node.domain == DOMAIN


def is_region(node: ir.Node) -> bool:
    """Whether a node calls a region: a function whose body is other nodes of the model."""
    return is_sparse(node) and node.op_type.startswith(REGION)


def spec_of(op_type: str) -> OpSpec:
    """The declaration of an op type of the domain (KeyError if it has none)."""
    return SPECS[parse(op_type).base]


def input_names(op_type: str) -> list[str]:
    """Names of the inputs of an op type, in order."""
    names = ["X", *packed.PACKED_INPUTS, "bias"]
    return [*names, "residual"] if parse(op_type).residual else names


def evaluate(op_type: str, call: Call) -> Array:
    """Numpy meaning of an op, in the dtype of its arguments."""
    what, spec = parse(op_type), spec_of(op_type)
    dense = unpack_blocks(call.weight)
    out = spec.linear(call.x, dense, call.bias, call.attributes)
    if what.residual:
        assert call.residual is not None
        out = out + call.residual
    return activations.BY_NAME[what.activation].meaning(out)


def function(op_type: str, opset: int) -> onnx.FunctionProto:
    """Portable body of an op in standard ops.

    Args:
        op_type: A variant of the domain.
        opset: Default-domain opset of the model that will hold the function, at least 11.
    """
    what, spec = parse(op_type), spec_of(op_type)
    nodes = packed.decode_body("dense") + spec.linear_body("dense", "linear")
    last = "linear"
    if what.residual:
        nodes.append(helper.make_node("Add", [last, "residual"], ["summed"]))
        last = "summed"
    nodes += activations.BY_NAME[what.activation].body(last, "Y")
    return helper.make_function(
        DOMAIN,
        op_type,
        input_names(op_type),
        ["Y"],
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=list(spec.attributes),
        doc_string=spec.doc,
    )


def region_functions(model: ir.Model) -> dict[ir.OperatorIdentifier, ir.Function]:
    """The bodies of the regions that the main graph calls."""
    called = [node.op_identifier() for node in model.graph.all_nodes() if is_region(node)]
    return {key: model.functions[key] for key in called if key in model.functions}


def attach_functions(model: ir.Model) -> None:
    """Give the model the body of every op of the domain that it uses, and no other."""
    regions = region_functions(model)
    graphs = [model.graph, *(body.graph for body in regions.values())]
    nodes = [node for graph in graphs for node in graph.all_nodes() if is_sparse(node)]
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


def attributes_of(node: ir.Node) -> Attributes:
    """The integer attributes of a sparse node."""
    spec = spec_of(node.op_type)
    return {
        name: list(node.attributes[name].as_ints()) if length else node.attributes[name].as_int()
        for name, length in spec.attributes.items()
    }


def check_node(node: ir.Node) -> None:
    """Check a sparse node against its declaration.

    Raises:
        ValueError: What disagrees, with the values.
    """
    if node.op_type not in VARIANTS:
        raise ValueError(f"the domain {DOMAIN!r} has no op {node.op_type!r}")
    names, spec = input_names(node.op_type), spec_of(node.op_type)
    if len(node.inputs) != len(names) or any(value is None for value in node.inputs):
        raise ValueError(f"{node.op_type} wants the inputs {', '.join(names)}")
    if set(node.attributes) != set(spec.attributes):
        raise ValueError(f"{node.op_type} wants the attributes {list(spec.attributes)}")
    weight = packed.read_packed(node)
    check_packed(weight, spec)
    bias = node.inputs[names.index("bias")]
    assert bias is not None
    if bias.shape is None or list(bias.shape) != [weight.shape[0]]:
        raise ValueError(f"bias of shape {bias.shape} for {weight.shape[0]} outputs")


def check_packed(weight: BlockWeight, spec: OpSpec) -> None:
    """Check that the four parts of a packed weight agree (ValueError if not)."""
    rb, kb, r, c = weight.grid
    rows, cols = weight.shape[0], math.prod(weight.shape[1:])
    if len(weight.shape) != spec.weight_rank or min(weight.shape) < 1 or min(r, c) < 1:
        raise ValueError(f"weight shape {weight.shape} with blocks {r}x{c}")
    if rb != math.ceil(rows / r) or kb != math.ceil(cols / c):
        raise ValueError(f"grid {weight.grid} does not cover a weight of shape {weight.shape}")
    if weight.values.shape != (len(weight.index), r * c):
        raise ValueError(f"{len(weight.index)} blocks but values of shape {weight.values.shape}")
    index = weight.index.astype(np.int64)
    if len(index) and (index[0] < 0 or index[-1] >= rb * kb or np.any(np.diff(index) <= 0)):
        raise ValueError("block positions are not ascending inside the grid")


def infer_shape(node: ir.Node, x: list[Dim]) -> list[Dim]:
    """Output shape of a sparse node for an input shape (ValueError on a contradiction)."""
    spec = spec_of(node.op_type)
    return spec.infer(x, packed.read_packed(node).shape, attributes_of(node))


def schema(op_type: str) -> defs.OpSchema:
    """ONNX schema of an op type, for checkers and editors."""
    spec = spec_of(op_type)
    types = {"index": "tensor(int32)", "grid": "tensor(int64)", "shape": "tensor(int64)"}
    inputs = [
        defs.OpSchema.FormalParameter(name, types.get(name, "T")) for name in input_names(op_type)
    ]
    kinds = {0: defs.OpSchema.AttrType.INT}
    return defs.OpSchema(
        op_type,
        DOMAIN,
        VERSION,
        doc=spec.doc,
        inputs=inputs,
        outputs=[defs.OpSchema.FormalParameter("Y", "T")],
        type_constraints=[("T", ["tensor(float)"], "Activations, values and bias.")],
        attributes=[
            defs.OpSchema.Attribute(name, kinds.get(length, defs.OpSchema.AttrType.INTS))
            for name, length in spec.attributes.items()
        ],
    )
