"""SparseMoE: a mixture of experts whose weights are packed, the experts of each below one another.

Each of the weights is one matrix ``W[E * R, K]`` as a layer has it, so that pruned experts are
stored, searched and multiplied as pruned layers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import onnx
import onnx_ir as ir
from onnx import helper
from onnx.defs import OpSchema

from sparsecc.formats.blocks import BlockWeight
from sparsecc.ops import moe, packed
from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.ops.attention_parts import dims_of, given
from sparsecc.ops.layers import check_packed
from sparsecc.ops.sparse_matmul import SPARSE_MATMUL
from sparsecc.ops.spec import Dim, OpType

BASE = "SparseMoE"
PARTS = (*packed.PACKED_INPUTS, "bias")
"""Of each weight; the bias ``[E * R]`` is always there."""
_KINDS = {"index": "tensor(int32)", "grid": "tensor(int64)", "shape": "tensor(int64)"}


def sparse_moe_variant(activation: str = "none", *, gated: bool = False) -> str:
    """The op type for an activation (a name of ``ACTIVATIONS``), with or without a gate."""
    return BASE + moe.moe_variant(activation, gated=gated).removeprefix(moe.BASE)


def parse_mixture(op_type: str) -> tuple[str, bool]:
    """Activation of a mixture of experts, packed or not, and whether it has a gate.

    Raises:
        KeyError: The op type is none.
    """
    variant = op_type.removeprefix("Sparse").removesuffix("_bias")
    for activation in ACTIVATIONS:
        for gated in (False, True):
            if variant == moe.moe_variant(activation.name, gated=gated):
                return activation.name, gated
    raise KeyError(op_type)


def packed_mixture(node: ir.Node) -> dict[str, BlockWeight]:
    """The packed weights of a node by name: up, gate if there is one, and down.

    Raises:
        ValueError: One is not constant.
    """
    products = moe.products_of(parse_mixture(node.op_type)[1])
    starts = range(len(moe.ROUTED), len(node.inputs), len(PARTS))
    return {
        name: packed.read_packed(node, first) for name, first in zip(products, starts, strict=True)
    }


def _inputs(gated: bool) -> dict[str, str]:
    routed = {name: moe.KINDS.get(name, "T") for name in moe.ROUTED}
    weights = {
        f"{name}_{part}": _KINDS.get(part, "T") for name in moe.products_of(gated) for part in PARTS
    }
    return routed | weights


def _unpacked(name: str) -> list[onnx.NodeProto]:
    """A weight as ``[E, R, K]`` under its name, and its bias ``[E, R]`` as ``{name}_bias_rows``."""
    node = helper.make_node
    nodes = packed.decode_body("whole")
    nodes += [
        node("Slice", ["shape", "at1", "at2"], ["columns_here"]),
        node("Concat", ["E", "rest_of_rows", "columns_here"], ["by_expert"], axis=0),
        node("Reshape", ["whole", "by_expert"], [name]),
        node("Concat", ["E", "rest_of_rows"], ["bias_by_expert"], axis=0),
        node("Reshape", ["bias", "bias_by_expert"], ["bias_rows"]),
    ]
    moe.rename(nodes, f"{name}_", kept=["E", "rest_of_rows", name])
    return nodes


def _body(activation: str, gated: bool) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        given("experts_count", OpSchema.AttrType.INT),
        *packed.constants(one_dim=[1], rest_of_rows=[-1]),
        node("Reshape", ["experts_count", "one_dim"], ["E"]),
        *(each for name in moe.products_of(gated) for each in _unpacked(name)),
        *moe.body(activation, gated, "_bias_rows"),
    ]


def _check(node: ir.Node, inputs: Mapping[str, str]) -> None:
    experts = node.attributes["experts_count"].as_int()
    named = dict(zip(inputs, node.inputs, strict=True))
    weights = packed_mixture(node)
    shapes = {name: dims_of(named[name]) for name in moe.ROUTED}
    for name, weight in weights.items():
        try:
            check_packed(weight, SPARSE_MATMUL)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        rows, columns = weight.shape
        if experts < 1 or rows % experts:
            raise ValueError(f"{name} has {rows} rows, no multiple of {experts} experts")
        shapes[name] = [experts, rows // experts, columns]
        shapes[f"{name}_bias"] = [experts, rows // experts]
        if dims_of(named[f"{name}_bias"]) != [rows]:
            raise ValueError(f"{name}_bias is not one number for each of {rows} rows")
    moe.check_routed(shapes, {name: named[name] for name in moe.ROUTED})


def _infer(node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    return list(x)


def _op_type(activation: str, gated: bool) -> OpType:
    inputs = _inputs(gated)
    return OpType(
        doc="MoE whose weights keep only their non-zero blocks, experts below one another.",
        inputs=inputs,
        attributes={"experts_count": OpSchema.AttrType.INT},
        body=partial(_body, activation, gated),
        check=partial(_check, inputs=inputs),
        infer=_infer,
        least_opset=moe.LEAST_OPSET,
    )


PACKED_MIXTURES: dict[str, OpType] = {
    sparse_moe_variant(activation.name, gated=gated): _op_type(activation.name, gated)
    for activation in ACTIVATIONS
    for gated in (False, True)
}
"""Every mixture of experts with packed weights."""
