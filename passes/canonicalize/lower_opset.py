"""Rewrite opsets 22–24 to opset 21, which ONNX Runtime runs from version 1.20 on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.canonicalize import lower_attention, lower_norm
from sparsecc.passes.edit import is_op
from sparsecc.passes.names import name_nodes

TARGET_OPSET = 21
TARGET_IR_VERSION = 10
"""The IR version that came with opset 21."""

NEWEST_OPSET = 24

_SAME_MEANING = """
    Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli Cast CastLike Constant ConstantOfShape
    Conv ConvTranspose Cos Cosh DeformConv DequantizeLinear Det Dropout Elu EyeLike Flatten GRU
    GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish Identity If
    InstanceNormalization LSTM Loop LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool Mish
    Multinomial NegativeLogLikelihoodLoss Pad QuantizeLinear RNN RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Reshape RoiAlign Round Scan Selu Shape Sin Sinh Size Softplus
    Softsign SplitToSequence Squeeze Tan ThresholdedRelu TopK Transpose Unsqueeze
"""
SAME_MEANING = frozenset(_SAME_MEANING.split())
"""Ops whose versions 22–24 add types (bfloat16, 2- and 4-bit, float8) and nothing else, apart from
the attributes below. A test holds this list against the schemas of the onnx package."""

NEW_ATTRIBUTES: Mapping[str, tuple[str, object]] = {
    "Cast": ("round_mode", "up"),
    "CastLike": ("round_mode", "up"),
    "DequantizeLinear": ("output_dtype", 0),
    "QuantizeLinear": ("precision", 0),
}
"""Attribute that versions 23–24 added to an op, and the value that means what version 21 does."""

Rewrite = Callable[[ir.Model, ir.Node], None]
Check = Callable[[ir.Node], str | None]

DECOMPOSED: Mapping[str, tuple[Check, Rewrite]] = {
    "Attention": (lower_attention.problem, lower_attention.rewrite),
    "RMSNormalization": (lower_norm.problem, lower_norm.rewrite_rms_norm),
    "RotaryEmbedding": (lower_norm.problem, lower_norm.rewrite_by_own_body),
    "Swish": (lower_norm.problem, lower_norm.rewrite_by_own_body),
}
"""Ops that are new in 22–24: why one cannot be decomposed, and its decomposition."""


class LowerOpset(Pass):
    """Bring a model of opset 22–24 down to opset 21; all of it or none of it."""

    name = "lower-opset"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Check every node first, since half a conversion would be no model at all."""
        opset = model.opset_imports.get("", 0)
        if opset <= TARGET_OPSET:
            return _cap_ir_version(model)
        if opset > NEWEST_OPSET:
            ctx.refuse(self.name, None, f"opset {opset} is newer than {NEWEST_OPSET}")
            return False
        problems = {node: _problem(node, opset) for node in model.graph.all_nodes()}
        found = {node: reason for node, reason in problems.items() if reason is not None}
        for node, reason in found.items():
            ctx.refuse(self.name, node, reason)
        if any(
            function.opset_imports.get("", 0) > TARGET_OPSET
            for function in model.functions.values()
        ):
            ctx.refuse(self.name, None, "a function of the model could not be inlined")
            return False
        if found:
            return False
        for node in problems:
            if node.op_type in DECOMPOSED and is_op(node, node.op_type):
                DECOMPOSED[node.op_type][1](model, node)
            elif node.op_type in NEW_ATTRIBUTES:
                node.attributes.pop(NEW_ATTRIBUTES[node.op_type][0], None)
        model.opset_imports[""] = TARGET_OPSET
        name_nodes(model)
        for node in model.graph.all_nodes():
            node.version = None
        _cap_ir_version(model)
        return True


def _cap_ir_version(model: ir.Model) -> bool:
    """Lower the IR version: what later ones added are types that opset 21 has no op for."""
    modified = model.ir_version > TARGET_IR_VERSION
    model.ir_version = min(model.ir_version, TARGET_IR_VERSION)
    return modified


def _problem(node: ir.Node, opset: int) -> str | None:
    """Why `node` cannot be written in opset 21, if so."""
    if not is_op(node, node.op_type):
        return None
    if node.op_type in DECOMPOSED:
        return DECOMPOSED[node.op_type][0](node)
    try:
        new = onnx.defs.get_schema(node.op_type, opset, "")
        old = onnx.defs.get_schema(node.op_type, TARGET_OPSET, "")
    except onnx.defs.SchemaError:
        return f"{node.op_type} is new in opset {opset} and has no decomposition here"
    if new.since_version == old.since_version:
        return None
    if node.op_type not in SAME_MEANING:
        return f"{node.op_type} means something else before opset {new.since_version}"
    name, default = NEW_ATTRIBUTES.get(node.op_type, ("", None))
    if name in node.attributes and node.attributes[name].value != default:
        return f"{node.op_type} uses {name!r}, which is newer than opset {TARGET_OPSET}"
    return _type_problem(node, old)


def _type_problem(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    for position, value in enumerate(node.inputs):
        if value is None or value.dtype is None or not schema.inputs:
            continue
        allowed = schema.inputs[min(position, len(schema.inputs) - 1)].types
        if f"tensor({_TYPE_NAMES.get(value.dtype, value.dtype.name.lower())})" not in allowed:
            return f"{node.op_type} takes no {value.dtype.name} before opset 22"
    return None


_TYPE_NAMES = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}
