"""Layers with a packed weight: every variant of a declaration as an op type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.defs import OpSchema

from sparsecc.formats.blocks import BlockWeight, unpack_blocks
from sparsecc.ops import activations, packed
from sparsecc.ops.sparse_conv import SPARSE_CONV
from sparsecc.ops.sparse_matmul import SPARSE_MATMUL
from sparsecc.ops.spec import Array, Attributes, Call, Dim, LayerSpec, OpType
from sparsecc.ops.variants import VARIANTS, Variant, parse

SPECS: dict[str, LayerSpec] = {spec.base: spec for spec in (SPARSE_CONV, SPARSE_MATMUL)}
_LEAST_OPSET = 11
_INPUTS = {
    "X": "T",
    **dict(zip(packed.PACKED_INPUTS, ("T", "tensor(int32)", *["tensor(int64)"] * 2), strict=True)),
    "bias": "T",
}


def spec_of(op_type: str) -> LayerSpec:
    """The declaration of a layer (KeyError if the domain has none of that name)."""
    return SPECS[parse(op_type).base]


def evaluate(op_type: str, call: Call) -> Array:
    """Numpy meaning of a layer, in the dtype of its arguments."""
    what, spec = parse(op_type), spec_of(op_type)
    dense = unpack_blocks(call.weight)
    out = spec.linear(call.x, dense, call.bias, call.attributes)
    if what.residual:
        assert call.residual is not None
        out = out + call.residual
    return activations.BY_NAME[what.activation].meaning(out)


def attributes_of(node: ir.Node) -> Attributes:
    """The integer attributes of a layer."""
    return {
        name: list(node.attributes[name].as_ints()) if length else node.attributes[name].as_int()
        for name, length in spec_of(node.op_type).attributes.items()
    }


def _op_type(what: Variant) -> OpType:
    spec = SPECS[what.base]
    kinds = {0: OpSchema.AttrType.INT}
    return OpType(
        doc=spec.doc,
        inputs=_INPUTS | ({"residual": "T"} if what.residual else {}),
        attributes={
            name: kinds.get(length, OpSchema.AttrType.INTS)
            for name, length in spec.attributes.items()
        },
        body=partial(_body, what, spec),
        check=partial(_check, spec),
        infer=partial(_infer, spec),
        least_opset=_LEAST_OPSET,
    )


def _body(what: Variant, spec: LayerSpec) -> list[onnx.NodeProto]:
    nodes = packed.decode_body("dense") + spec.linear_body("dense", "linear")
    last = "linear"
    if what.residual:
        nodes.append(helper.make_node("Add", [last, "residual"], ["summed"]))
        last = "summed"
    return nodes + activations.BY_NAME[what.activation].body(last, "Y")


def _check(spec: LayerSpec, node: ir.Node) -> None:
    weight = packed.read_packed(node)
    check_packed(weight, spec)
    bias = node.inputs[list(_INPUTS).index("bias")]
    assert bias is not None
    if bias.shape is None or list(bias.shape) != [weight.shape[0]]:
        raise ValueError(f"bias of shape {bias.shape} for {weight.shape[0]} outputs")


def _infer(spec: LayerSpec, node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    return spec.infer(x, packed.read_packed(node).shape, attributes_of(node))


def check_packed(weight: BlockWeight, spec: LayerSpec) -> None:
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


LAYERS: dict[str, OpType] = {name: _op_type(what) for name, what in VARIANTS.items()}
"""Every layer with a packed weight."""
