"""SparseMoE: a mixture of experts whose weights are packed, the experts of each below one another.

Each of the weights is one matrix ``W[E * R, K]`` as a layer has it, so that pruned experts are
stored, searched and multiplied as pruned layers are. Its values may be codes of 8 or 4 bits with
scales beside (``sparsecc.formats.codes``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnx.defs import OpSchema

from sparsecc.formats.blocks import BlockWeight
from sparsecc.formats.codes import BITS, EVEN, block_of
from sparsecc.ops import moe, packed
from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.ops.attention_parts import dims_of, given, scalar
from sparsecc.ops.layers import check_packed
from sparsecc.ops.sparse_matmul import SPARSE_MATMUL
from sparsecc.ops.spec import Dim, OpType

BASE = "SparseMoE"
PARTS = (*packed.PACKED_INPUTS, "bias")
"""Of each weight; the bias ``[E * R]`` is always there. Codes have ``scales [Rb, G, 16]`` too."""
_KINDS = {"index": "tensor(int32)", "grid": "tensor(int64)", "shape": "tensor(int64)"}
_VALUES = {None: "T", 8: "tensor(int8)", 4: "tensor(uint8)"}


def parts_of(bits: int | None) -> tuple[str, ...]:
    """Names of the inputs of each weight, in order."""
    return PARTS if bits is None else (*PARTS, "scales")


def sparse_moe_variant(
    activation: str = "none", *, gated: bool = False, bits: int | None = None
) -> str:
    """The op type for an activation (a name of ``ACTIVATIONS``), with or without a gate.

    Args:
        activation: The activation.
        gated: Whether there is a gate.
        bits: Of the codes that weights are; None where they are numbers.
    """
    coded = "" if bits is None else f"_int{bits}"
    return BASE + moe.moe_variant(activation, gated=gated).removeprefix(moe.BASE) + coded


def bits_of(op_type: str) -> int | None:
    """Bits of the codes of a packed mixture; None where its weights are numbers."""
    return next((bits for bits in BITS if op_type.endswith(f"_int{bits}")), None)


def parse_mixture(op_type: str) -> tuple[str, bool]:
    """Activation of a mixture of experts, packed or not, and whether it has a gate.

    Raises:
        KeyError: The op type is none.
    """
    coded = bits_of(op_type)
    bare = op_type if coded is None else op_type.removesuffix(f"_int{coded}")
    variant = bare.removeprefix("Sparse").removesuffix("_bias")
    for activation in ACTIVATIONS:
        for gated in (False, True):
            if variant == moe.moe_variant(activation.name, gated=gated):
                return activation.name, gated
    raise KeyError(op_type)


def packed_mixture(node: ir.Node) -> dict[str, BlockWeight]:
    """The packed weights of a node by name: up, gate if there is one, and down.

    Values are bytes where they are codes.

    Raises:
        ValueError: One is not constant.
    """
    products = moe.products_of(parse_mixture(node.op_type)[1])
    starts = range(len(moe.ROUTED), len(node.inputs), len(parts_of(bits_of(node.op_type))))
    return {
        name: packed.read_packed(node, first) for name, first in zip(products, starts, strict=True)
    }


def _inputs(gated: bool, bits: int | None) -> dict[str, str]:
    routed = {name: moe.KINDS.get(name, "T") for name in moe.ROUTED}
    kinds = _KINDS | {"values": _VALUES[bits]}
    weights = {
        f"{name}_{part}": kinds.get(part, "T")
        for name in moe.products_of(gated)
        for part in parts_of(bits)
    }
    return routed | weights


def _unpacked(name: str, bits: int | None) -> list[onnx.NodeProto]:
    """A weight as ``[E, R, K]`` under its name, and its bias ``[E, R]`` as ``{name}_bias_rows``."""
    node = helper.make_node
    nodes = packed.decode_body("whole") if bits is None else _decoded(bits)
    nodes += [
        node("Slice", ["shape", "at1", "at2"], ["columns_here"]),
        node("Concat", ["E", "rest_of_rows", "columns_here"], ["by_expert"], axis=0),
        node("Reshape", ["whole", "by_expert"], [name]),
        node("Concat", ["E", "rest_of_rows"], ["bias_by_expert"], axis=0),
        node("Reshape", ["bias", "bias_by_expert"], ["bias_rows"]),
    ]
    moe.rename(nodes, f"{name}_", kept=["E", "rest_of_rows", name, "inputs_per_scale"])
    return nodes


def _decoded(bits: int) -> list[onnx.NodeProto]:
    """Codes times their scales as the matrix ``whole``."""
    node, nodes = helper.make_node, list[onnx.NodeProto]()
    codes = packed.decode_body("codes", np.int8)
    if bits == 4:
        nodes = _halves_of_bytes()
        for each in codes:
            each.input[:] = ["bytes" if name == "values" else name for name in each.input]
    return [
        *nodes,
        *codes,
        node("Cast", ["codes"], ["numbers"], to=TensorProto.FLOAT),
        node("Transpose", ["scales"], ["scales_by_row"], perm=[0, 2, 1]),
        node("Shape", ["scales"], ["scales_shape"]),
        node("Slice", ["scales_shape", "at1", "at2"], ["groups"]),
        node("Concat", ["rest", "groups"], ["matrix_of_scales"], axis=0),
        node("Reshape", ["scales_by_row", "matrix_of_scales"], ["row_scales"]),
        scalar("first", np.int64(0)),
        scalar("step", np.int64(1)),
        node("Squeeze", ["K"], ["inputs"]),
        node("Range", ["first", "inputs", "step"], ["each_input"]),
        node("Div", ["each_input", "inputs_per_scale"], ["group_of_input"]),
        node("Gather", ["row_scales", "group_of_input"], ["scale_of_each"], axis=1),
        node("Mul", ["numbers", "scale_of_each"], ["whole"]),
    ]


def _halves_of_bytes() -> list[onnx.NodeProto]:
    """Two signed codes of each byte, as ``bytes [blocks, 2 * 16]``."""
    node = helper.make_node
    return [
        scalar("sixteen", np.int32(16)),
        scalar("eight", np.int32(8)),
        *packed.constants(at_end=[-1], two_codes=[-1, 2 * EVEN]),
        node("Cast", ["values"], ["both"], to=TensorProto.INT32),
        node("Div", ["both", "sixteen"], ["high"]),
        node("Unsqueeze", ["both", "at_end"], ["low_column"]),
        node("Unsqueeze", ["high", "at_end"], ["high_column"]),
        node("Concat", ["low_column", "high_column"], ["columns_of_codes"], axis=-1),
        node("Reshape", ["columns_of_codes", "two_codes"], ["unsigned"]),
        node("Add", ["unsigned", "eight"], ["raised"]),
        node("Mod", ["raised", "sixteen"], ["low_bits"]),
        node("Sub", ["low_bits", "eight"], ["signed"]),
        node("Cast", ["signed"], ["bytes"], to=TensorProto.INT8),
    ]


def _body(activation: str, gated: bool, bits: int | None) -> list[onnx.NodeProto]:
    node = helper.make_node
    names = ["experts_count", *["inputs_per_scale"] * (bits is not None)]
    return [
        *(given(name, OpSchema.AttrType.INT) for name in names),
        *packed.constants(one_dim=[1], rest_of_rows=[-1]),
        node("Reshape", ["experts_count", "one_dim"], ["E"]),
        *(each for name in moe.products_of(gated) for each in _unpacked(name, bits)),
        *moe.body(activation, gated, "_bias_rows"),
    ]


def _check(node: ir.Node, inputs: Mapping[str, str]) -> None:
    experts, bits = node.attributes["experts_count"].as_int(), bits_of(node.op_type)
    named = dict(zip(inputs, node.inputs, strict=True))
    weights = packed_mixture(node)
    shapes = {name: dims_of(named[name]) for name in moe.ROUTED}
    for name, weight in weights.items():
        try:
            if bits is not None:
                weight = _check_coded(weight, bits, named[f"{name}_scales"], node)
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


def _check_coded(
    weight: BlockWeight, bits: int, scales: ir.Value | None, node: ir.Node
) -> BlockWeight:
    """Check what is of codes alone; the weight with a value for each code."""
    group, columns = node.attributes["inputs_per_scale"].as_int(), weight.shape[-1]
    if weight.block != block_of(bits):
        raise ValueError(f"blocks of {weight.block}, codes of {bits} bits have {block_of(bits)}")
    if weight.values.dtype != (np.int8 if bits == 8 else np.uint8) or weight.values.ndim != 2:
        raise ValueError(f"codes of {bits} bits in {weight.values.dtype}")
    if group < 1 or (group < columns and group % EVEN):
        raise ValueError(f"{group} inputs share a scale, no multiple of {EVEN}")
    wanted = [weight.grid[0], -(-columns // group), EVEN]
    if dims_of(scales) != wanted:
        raise ValueError(f"scales of the shape {dims_of(scales)}, expected {wanted}")
    blocks, size = weight.values.shape
    codes: Any = np.broadcast_to(np.int8(0), (blocks, size * 8 // bits))
    return BlockWeight(codes, weight.index, weight.grid, weight.shape)


def _infer(node: ir.Node, x: Sequence[Dim]) -> list[Dim]:
    return list(x)


def _op_type(activation: str, gated: bool, bits: int | None) -> OpType:
    inputs = _inputs(gated, bits)
    names = ["experts_count", *["inputs_per_scale"] * (bits is not None)]
    return OpType(
        doc="MoE whose weights keep only their non-zero blocks, experts below one another.",
        inputs=inputs,
        attributes=dict.fromkeys(names, OpSchema.AttrType.INT),
        body=partial(_body, activation, gated, bits),
        check=partial(_check, inputs=inputs),
        infer=_infer,
        least_opset=moe.LEAST_OPSET,
    )


PACKED_MIXTURES: dict[str, OpType] = {
    sparse_moe_variant(activation.name, gated=gated, bits=bits): _op_type(
        activation.name, gated, bits
    )
    for activation in ACTIVATIONS
    for gated in (False, True)
    for bits in (None, *BITS)
}
"""Every mixture of experts with packed weights."""
