"""The eight-bit ops, each a function in standard ops.

They stand for one int8 kernel each. A runtime without the library inlines them; ONNX Runtime then
computes them by its own int8 kernels, and exactly the same numbers up to ties in rounding.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from sparsecc.ops.packed import PACKED_INPUTS, constants, decode_body

DOMAIN = "sparsecc.int8"
VERSION = 1
LEAST_OPSET = 13

WINDOW = ("strides", "pads", "dilations")
QUANT = ("x_zero", "y_zero", "low", "high")
"""Zero points of X and Y, least and largest byte of Y."""

INPUTS: dict[str, tuple[str, ...]] = {
    "Conv": ("X", *PACKED_INPUTS, "bias", "multiplier"),
    "Depthwise": ("X", "values", "bias", "multiplier"),
    "Add": ("A", "B"),
    "Mean": ("X",),
    "MaxPool": ("X",),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Conv": (*WINDOW, *QUANT, "channels"),
    "Depthwise": (*WINDOW, *QUANT, "channels"),
    "Add": ("a", "b", "constant", "low", "high"),
    "Mean": ("multiplier", "x_zero", "y_zero"),
    "MaxPool": ("kernel_shape", *WINDOW),
}
"""All are required; those of Add and the multiplier of Mean are floats."""


def attach(model: ir.Model) -> None:
    """Give the model the function of every eight-bit op that its main graph uses."""
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN}
    if used:
        model.opset_imports[DOMAIN] = VERSION
    for op_type in sorted(used):
        body = ir.serde.deserialize_function(function(op_type, model.opset_imports[""]))
        model.functions[(DOMAIN, op_type, "")] = body


def function(op_type: str, opset: int) -> onnx.FunctionProto:
    """The meaning of an op (KeyError if the domain has none of that name).

    Args:
        op_type: A key of :data:`INPUTS`.
        opset: Default-domain opset of the model that will hold the function, at least 13.
    """
    return helper.make_function(
        DOMAIN,
        op_type,
        list(INPUTS[op_type]),
        ["Y"],
        _BODIES[op_type](),
        [helper.make_opsetid("", opset)],
        attributes=list(ATTRIBUTES[op_type]),
    )


def _given(name: str, to: int, *, number: str = "value_int") -> list[onnx.NodeProto]:
    """An attribute as a scalar of an element type, under the name of the attribute."""
    kind = AttributeProto.INT if number == "value_int" else AttributeProto.FLOAT
    constant = helper.make_node("Constant", [], [f"{name}_number"])
    constant.attribute.append(AttributeProto(name=number, ref_attr_name=name, type=kind))
    return [constant, helper.make_node("Cast", [f"{name}_number"], [name], to=to)]


def _scalar(name: str, value: np.generic) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))


def _convolution(oihw: str, *, grouped: bool) -> list[onnx.NodeProto]:
    """QLinearConv with scales of one, so that the multiplier is all that scales."""
    conv = helper.make_node(
        "QLinearConv",
        ["X", "one", "x_zero", oihw, "multiplier", "none", "one", "y_zero", "bias"],
        ["unbounded"],
    )
    for name in WINDOW:
        conv.attribute.append(
            AttributeProto(name=name, ref_attr_name=name, type=AttributeProto.INTS)
        )
    if grouped:
        conv.attribute.append(
            AttributeProto(name="group", ref_attr_name="channels", type=AttributeProto.INT)
        )
    bytes_ = [node for name in QUANT for node in _given(name, TensorProto.UINT8)]
    return [
        *bytes_,
        _scalar("one", np.float32(1)),
        _scalar("none", np.int8(0)),
        conv,
        helper.make_node("Clip", ["unbounded", "low", "high"], ["Y"]),
    ]


def _conv() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        *decode_body("dense", np.int8),
        node("Transpose", ["dense"], ["wide"], perm=[0, 3, 1, 2]),
        *_given("channels", TensorProto.INT64),
        node("Reshape", ["channels", "rest"], ["channels1"]),
        node("Slice", ["wide", "at0", "channels1", "at1"], ["oihw"]),
        *_convolution("oihw", grouped=False),
    ]


def _depthwise() -> list[onnx.NodeProto]:
    unsqueeze = helper.make_node("Unsqueeze", ["values", "second"], ["oihw"])
    return [*constants(second=[1]), unsqueeze, *_convolution("oihw", grouped=True)]


def _add() -> list[onnx.NodeProto]:
    node = helper.make_node
    floats = ("a", "b", "constant")
    return [
        *(n for name in floats for n in _given(name, TensorProto.FLOAT, number="value_float")),
        *(n for name in ("low", "high") for n in _given(name, TensorProto.FLOAT)),
        node("Cast", ["A"], ["a_bytes"], to=TensorProto.FLOAT),
        node("Cast", ["B"], ["b_bytes"], to=TensorProto.FLOAT),
        node("Mul", ["a_bytes", "a"], ["a_part"]),
        node("Mul", ["b_bytes", "b"], ["b_part"]),
        node("Add", ["a_part", "b_part"], ["parts"]),
        node("Add", ["parts", "constant"], ["sum"]),
        node("Round", ["sum"], ["rounded"]),
        node("Clip", ["rounded", "low", "high"], ["bounded"]),
        node("Cast", ["bounded"], ["Y"], to=TensorProto.UINT8),
    ]


def _mean() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        *_given("multiplier", TensorProto.FLOAT, number="value_float"),
        *(n for name in ("x_zero", "y_zero") for n in _given(name, TensorProto.FLOAT)),
        _scalar("least", np.float32(0)),
        _scalar("most", np.float32(255)),
        node("Cast", ["X"], ["bytes"], to=TensorProto.FLOAT),
        node("Sub", ["bytes", "x_zero"], ["centred"]),
        node("GlobalAveragePool", ["centred"], ["mean"]),
        node("Mul", ["mean", "multiplier"], ["scaled"]),
        node("Round", ["scaled"], ["rounded"]),  # before the zero point, as QuantizeLinear does it
        node("Add", ["rounded", "y_zero"], ["number"]),
        node("Clip", ["number", "least", "most"], ["bounded"]),
        node("Cast", ["bounded"], ["Y"], to=TensorProto.UINT8),
    ]


def _maxpool() -> list[onnx.NodeProto]:
    pool = helper.make_node("MaxPool", ["X"], ["Y"])
    for name in ATTRIBUTES["MaxPool"]:
        pool.attribute.append(
            AttributeProto(name=name, ref_attr_name=name, type=AttributeProto.INTS)
        )
    return [pool]


_BODIES = {"Conv": _conv, "Depthwise": _depthwise, "Add": _add, "Mean": _mean, "MaxPool": _maxpool}
