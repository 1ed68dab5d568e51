"""Makes layers eight-bit: QuantizeLinear and DequantizeLinear around standard ops.

Only layers that the int8 kernels cover. Approximate: runs when the user asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import PlanError
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Kind, Pass
from sparsecc.passes.quantize.arithmetic import (
    Scale,
    least_scale,
    quantize_bias,
    quantize_rows,
    scale_of,
)
from sparsecc.quality.ranges import Range

OPSET = 13
"""First opset in which a weight has a scale for each output."""
CLAMPS = ("Relu", "Clip")
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_POOLS = ("GlobalAveragePool", "ReduceMean", "MaxPool")


class InsertQuantization(Pass):
    """Quantize weights per output and the activations around them per tensor.

    Args:
        ranges: Value name → range over calibration data, for every name that
            :func:`quantized_values` gives.
    """

    name: ClassVar[str] = "int8"
    kind: ClassVar[Kind] = "approximate"

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self._ranges = ranges

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Quantize every layer that is covered; say why others are not."""
        _check_opset(model)
        nodes = covered_nodes(model, ctx)
        scales = {
            value: scale_of(*self._ranges[value.name or ""]) for value in _values_around(nodes)
        }
        for node in nodes:
            if node.op_type == "MaxPool" and node.inputs[0] is not None:
                scales[node.outputs[0]] = scales[node.inputs[0]]  # the same bytes, fewer of them
        for node in nodes:
            _quantize_weight(node, scales)
        for value, scale in scales.items():
            _quantize_value(value, scale)
        return bool(nodes)


def quantized_values(model: ir.Model) -> list[str]:
    """Names of the values that become eight-bit: their ranges must be known.

    Raises:
        PlanError: The model's opset is too old.
    """
    _check_opset(model)
    return [value.name or "" for value in _values_around(covered_nodes(model, Context()))]


def _check_opset(model: ir.Model) -> None:
    if model.opset_imports.get("", 0) < OPSET:
        raise PlanError(
            f"int8 needs ONNX opset {OPSET}, the model has {model.opset_imports.get('')}",
            fix=f"export the model with opset {OPSET} or newer, or convert it: "
            f"onnx.version_converter.convert_version(model, {OPSET})",
        )


def covered_nodes(model: ir.Model, ctx: Context) -> list[ir.Node]:
    """Nodes that the int8 kernels cover, in order; refusals of the others go to ``ctx``."""
    covered: list[ir.Node] = []
    quantized: set[ir.Value] = set()
    for node in edit.nodes_of(model, *_WEIGHTED, "Add", *_POOLS):
        why = _why_not(node, quantized)
        if why:
            ctx.refuse(InsertQuantization.name, node, why)
            continue
        covered.append(node)
        quantized.add(output_of(node))
    return covered


def _why_not(node: ir.Node, quantized: set[ir.Value]) -> str:
    if any(value is None for value in node.inputs[:2]):
        return "an input is missing"
    if node.op_type in _POOLS:
        known = pools_image(node) and node.inputs[0] in quantized
        return "" if known else "it is not a plain pooling of an eight-bit image"
    if node.op_type == "Add":
        rank4 = all(v.shape is not None and len(v.shape) == 4 for v in node.inputs if v is not None)
        same = len({str(v.shape) for v in node.inputs if v is not None}) == 1
        known = rank4 and same and all(v in quantized for v in node.inputs)
        return "" if known else "its inputs are not eight-bit images of one shape"
    return _why_not_layer(node)


def _why_not_layer(node: ir.Node) -> str:
    weight = edit.constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32:
        return "its weight is not a float32 constant"
    if node.op_type == "MatMul":
        x = node.inputs[0]
        rows = x is not None and x.shape is not None and len(x.shape) == 2 == weight.ndim
        return "" if rows else "it is not a product of rows and a matrix"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = edit.constant(node.inputs[2])
        if bias is None or bias.shape != (rows_of(node, weight),):
            return "its bias is not a constant with one number per output"
    if node.op_type == "Gemm":
        plain = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")] == [1.0, 1.0]
        ok = plain and not node.attributes.get_int("transA", 0)
        return "" if ok else "its input is transposed or it is scaled"
    plain = weight.ndim == 4 and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    return "" if plain else "it is not a 2-D convolution with explicit padding"


def pools_image(node: ir.Node) -> bool:
    """Whether a pooling, or a ReduceMean, is one of images that the kernels have."""
    x, read = node.inputs[0], node.attributes
    if x is None or x.shape is None or len(x.shape) != 4:
        return False
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type == "ReduceMean":
        given = edit.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = list(read.get_ints("axes", ())) if given is None else given.tolist()
        return sorted(axis % 4 for axis in axes) == [2, 3]
    kernel, pads = read.get_ints("kernel_shape", ()), read.get_ints("pads", (0, 0, 0, 0))
    inside = all(pad < kernel[at % 2] for at, pad in enumerate(pads))
    plain = not read.get_int("ceil_mode", 0) and len(node.outputs) == 1
    return plain and inside and read.get_string("auto_pad", "NOTSET") == "NOTSET"


def is_depthwise(node: ir.Node, weight: NDArray[Any]) -> bool:
    """Whether a convolution has one input and one output per group."""
    return node.attributes.get_int("group", 1) == len(weight) > 1 and weight.shape[1] == 1


def rows_of(node: ir.Node, weight: NDArray[Any]) -> int:
    """Outputs of a Conv or Gemm."""
    return int(weight.shape[row_axis(node)])


def row_axis(node: ir.Node) -> int:
    """The axis of the weight along which the outputs lie."""
    by_columns = node.op_type != "Conv" and not node.attributes.get_int("transB", 0)
    return 1 if by_columns else 0


def output_of(node: ir.Node) -> ir.Value:
    """The output of a node, or of the clamp that alone reads it."""
    after = None if node.op_type in _POOLS else edit.sole_consumer(node.outputs[0])
    bounded = after is not None and edit.is_op(after, *CLAMPS) and _has_bounds(after)
    return after.outputs[0] if after is not None and bounded else node.outputs[0]


def _has_bounds(node: ir.Node) -> bool:
    return all(value is None or edit.scalar(value) is not None for value in node.inputs[1:])


def _values_around(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """What the nodes read and write, in order, without repeats."""
    values: dict[ir.Value, None] = {}
    for node in nodes:
        data = node.inputs if node.op_type == "Add" else node.inputs[:1]
        values |= dict.fromkeys(value for value in data if value is not None)
        values[output_of(node)] = None
    return list(values)


def _quantize_weight(node: ir.Node, scales: Mapping[ir.Value, Scale]) -> None:
    weight = edit.constant(node.inputs[1]) if node.op_type in _WEIGHTED else None
    if weight is None:
        return
    axis, data = row_axis(node), node.inputs[0]
    assert data is not None
    bias = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    stored, scale = quantize_rows(weight, axis, least_scale(bias, scales[data].scale))
    zero = np.zeros(len(scale), np.int8)
    node.replace_input_with(1, _dequantized(node, "weight", stored, scale, zero, axis))
    if bias is None:
        return
    both = (scale * np.float32(scales[data].scale)).astype(np.float32)
    both = np.maximum(both, np.finfo(np.float32).tiny)
    none = np.zeros(len(scale), np.int32)
    whole = quantize_bias(bias, both)
    node.replace_input_with(2, _dequantized(node, "bias", whole, both, none, 0))


def _dequantized(
    node: ir.Node,
    what: str,
    stored: NDArray[Any],
    scale: NDArray[Any],
    zero: NDArray[Any],
    axis: int,
) -> ir.Value:
    """A constant operand as bytes and the DequantizeLinear that reads them, before ``node``."""
    name = f"{node.name}.{what}"
    inputs = [
        edit.new_initializer(node, f"{name}_{part}", array)
        for part, array in (("int8", stored), ("scale", scale), ("zero", zero))
    ]
    made = ir.Node(
        "", "DequantizeLinear", inputs, [ir.AttrInt64("axis", axis)], name=f"{name}/dequantize"
    )
    made.outputs[0].name = edit.fresh_name(edit.owner(node), f"{name}/dequantize")
    edit.owner(node).insert_before(node, made)
    return made.outputs[0]


def _quantize_value(value: ir.Value, scale: Scale) -> None:
    """Put QuantizeLinear and DequantizeLinear between a value and all that reads it."""
    uses = list(value.uses())
    producer = value.producer()
    near = producer if producer is not None else uses[0].node
    graph = edit.owner(near)
    name = value.name or ""
    given = [
        edit.new_initializer(near, f"{name}/{part}", array)
        for part, array in (
            ("scale", np.array(scale.scale, np.float32)),
            ("zero", np.array(scale.zero, np.uint8)),
        )
    ]
    down = ir.Node("", "QuantizeLinear", [value, *given], name=f"{name}/quantize")
    up = ir.Node("", "DequantizeLinear", [down.outputs[0], *given], name=f"{name}/dequantize")
    for node in (down, up):
        node.outputs[0].name = edit.fresh_name(graph, node.name or "")
    up.outputs[0].shape, up.outputs[0].type = value.shape, value.type
    down.outputs[0].shape = value.shape
    down.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    if producer is not None:
        graph.insert_after(producer, [down, up])
    else:
        graph.insert_before(graph[0], [down, up])
    for use in uses:
        use.node.replace_input_with(use.idx, up.outputs[0])
    if value.is_graph_output():
        value.name, up.outputs[0].name = up.outputs[0].name, value.name
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = up.outputs[0]
