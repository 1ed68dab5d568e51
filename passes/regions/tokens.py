"""Units of transformers besides attention: norms, dense layers, constant terms, one token."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.backends.codegen.program import Step
from sparsecc.passes.edit import constant, is_op, scalar, sole_consumer
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.views import trace, whole
from sparsecc.passes.quantize.region_step import bits
from sparsecc.passes.regions.unit import Unit
from sparsecc.passes.weights.choose import has_few_rows

_ROWS_ARE_OUTPUTS, _COLUMNS_ARE_OUTPUTS = 1, 2
"""How a dense weight lies, as the step ``matmul16`` counts it."""


def layer_norm(node: ir.Node, shapes: Shapes) -> Unit | None:
    """LayerNormalization over the last axis by constants."""
    x, scale, bias = [*node.inputs, None][:3]
    if x is None or scale is None or x.shape is None or _is_read(node.outputs[1:]):
        return None
    if node.attributes.get_int("axis", -1) not in (-1, len(x.shape) - 1):
        return None
    return _norm([node], x, [scale, bias], node.attributes.get_float("epsilon", 1e-5))


def norm_in_parts(root: ir.Node, shapes: Shapes) -> Unit | None:
    """The nine nodes around a Sqrt that exporters write for a norm before opset 17."""
    summed = _maker(root.inputs[0], "Add")
    divided = _reader(root.outputs[0], "Div")
    if summed is None or divided is None or divided.inputs[1] is not root.outputs[0]:
        return None
    epsilon, squares = _number_and_value(summed)
    variance = _maker(squares, "ReduceMean")
    centred = _maker(divided.inputs[0], "Sub")
    scaled = _reader(divided.outputs[0], "Mul")
    if epsilon is None or variance is None or centred is None or scaled is None:
        return None
    squared = _maker(variance.inputs[0], "Pow", "Mul")
    mean = _maker(centred.inputs[1], "ReduceMean")
    shifted = _reader(scaled.outputs[0], "Add")
    if squared is None or mean is None or shifted is None:
        return None
    if mean.inputs[0] is not centred.inputs[0] or not _is_square(squared, centred.outputs[0]):
        return None
    if not (_over_rows(mean) and _over_rows(variance)):
        return None
    nodes = [mean, centred, squared, variance, summed, root, divided, scaled, shifted]
    factors = [_other(scaled, divided.outputs[0]), _other(shifted, scaled.outputs[0])]
    x = centred.inputs[0]
    return None if x is None else _norm(nodes, x, factors, epsilon)


def dense(node: ir.Node, shapes: Shapes) -> Unit | None:
    """A product of few rows by a constant, and the bias that is added to it.

    One of many is left to ONNX Runtime, unless ``DenseProducts`` found it better off here.
    """
    x, weight, bias = [*node.inputs, None][:3]
    array = constant(weight)
    if x is None or weight is None or array is None or array.ndim != 2 or not _is_float(x, array):
        return None
    if not has_few_rows(x):
        return None
    turned = bool(node.attributes.get_int("transB", 0))
    outputs = array.shape[0 if turned else 1]
    nodes = [node]
    if node.op_type == "Gemm":
        read = node.attributes
        if read.get_int("transA", 0) or read.get_float("alpha", 1.0) != 1.0:
            return None
        if bias is not None and read.get_float("beta", 1.0) != 1.0:
            return None
    elif (total := _reader(node.outputs[0], "Add")) is not None:
        term = _other(total, node.outputs[0])
        if _is_row(term, outputs):
            nodes, bias = [node, total], term
    if bias is not None and not _is_row(bias, outputs):
        return None
    lies = _ROWS_ARE_OUTPUTS if turned else _COLUMNS_ARE_OUTPUTS
    return _unit("matmul16", nodes, [x], [weight, bias], 0, lies)


def constant_term(node: ir.Node, shapes: Shapes) -> Unit | None:
    """The sum of a value and a constant that repeats along its leading axes."""
    for x, term in (node.inputs, reversed(node.inputs)):
        array = constant(term)
        if x is None or term is None or array is None or constant(x) is not None:
            continue
        if x.shape is None or not _is_float(x, array) or array.ndim > len(x.shape):
            continue
        own = array.shape[next((i for i, dim in enumerate(array.shape) if dim != 1), array.ndim) :]
        if own and list(own) == list(x.shape)[-len(own) :]:
            return _unit("add", [node], [x], [term], 0)
    return None


def select(node: ir.Node, shapes: Shapes) -> Unit | None:
    """Gather of one token of [batch, tokens, features]."""
    x, index = node.inputs
    number = constant(index)
    if x is None or x.shape is None or number is None or number.ndim != 0:
        return None
    if len(x.shape) != 3 or x.dtype != ir.DataType.FLOAT or node.attributes.get_int("axis", 0) != 1:
        return None
    return _unit("select", [node], [x], [], int(number), 0)


def select_by_range(node: ir.Node, shapes: Shapes) -> Unit | None:
    """Squeeze of a Slice of one token."""
    cut = _maker(node.inputs[0], "Slice")
    found = trace(node.outputs[0], shapes) if cut is not None else None
    source = None if found is None else found.view.source
    terms = None if source is None else shapes.terms(source)
    if cut is None or found is None or source is None or terms is None or len(terms) != 3:
        return None
    if source is not cut.inputs[0] or source.dtype != ir.DataType.FLOAT:
        return None
    _, length, width = terms
    start = whole(source, shapes)
    if start is None or not isinstance(width, int) or not width or length == 1:
        return None
    if found.view.dims != (start.dims[0], start.dims[2]) or found.view.offset % width:
        return None
    return _unit("select", [cut, node], [source], [], found.view.offset // width, 0)


def mean_of_tokens(node: ir.Node, shapes: Shapes) -> Unit | None:
    """ReduceMean over the tokens of [batch, tokens, features]."""
    x, second = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes") if second is None else second.reshape(-1).tolist()
    if x is None or x.shape is None or len(x.shape) != 3 or x.dtype != ir.DataType.FLOAT:
        return None
    if node.attributes.get_int("keepdims", 1) or axes is None or list(axes) not in ([1], [-2]):
        return None
    return _unit("select", [node], [x], [], 0, 1)


def _norm(
    nodes: list[ir.Node], x: ir.Value, factors: list[ir.Value | None], epsilon: float
) -> Unit | None:
    """The step of a norm: scale and, if there is one, bias for each number of a row."""
    width = x.shape[-1] if x.shape else None
    rows = [_is_row(factor, width) for factor in factors if factor is not None]
    if not isinstance(width, int) or x.dtype != ir.DataType.FLOAT or not rows or not all(rows):
        return None
    return _unit("layer_norm", nodes, [x], factors, bits(epsilon))


def _unit(
    kind: str,
    nodes: list[ir.Node],
    data: list[ir.Value],
    constants: list[ir.Value | None],
    *attributes: int,
) -> Unit:
    step = Step(
        kind,
        str(nodes[0].name),
        tuple(str(value.name) for value in data),
        (str(nodes[-1].outputs[0].name),),
        tuple(str(value.name) for value in constants if value is not None),
        attributes,
    )
    return Unit(tuple(nodes), step)


def _is_float(x: ir.Value, array: NDArray[Any]) -> bool:
    return x.dtype == ir.DataType.FLOAT and array.dtype == np.float32


def _is_row(value: ir.Value | None, width: object) -> bool:
    """Whether `value` is a constant of one float32 for each of `width` features."""
    array = constant(value)
    return array is not None and array.dtype == np.float32 and array.shape == (width,)


def _is_read(values: tuple[ir.Value, ...] | Any) -> bool:
    return any(value.is_graph_output() or value.consumers() for value in values)


def _maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if is_op(node, *op_types) else None


def _reader(value: ir.Value, op_type: str) -> ir.Node | None:
    node = sole_consumer(value)
    return node if is_op(node, op_type) else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other operand of a node of two."""
    return node.inputs[0] if node.inputs[1] is value else node.inputs[1]


def _number_and_value(node: ir.Node) -> tuple[float | None, ir.Value | None]:
    a, b = node.inputs
    return (scalar(b), a) if scalar(b) is not None else (scalar(a), b)


def _is_square(node: ir.Node, x: ir.Value) -> bool:
    if node.op_type == "Pow":
        return node.inputs[0] is x and scalar(node.inputs[1]) == 2.0
    return node.inputs[0] is x and node.inputs[1] is x


def _over_rows(mean: ir.Node) -> bool:
    """Whether a ReduceMean is over the last axis, which it keeps."""
    x, second = mean.inputs[0], constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    axes = mean.attributes.get_ints("axes") if second is None else second.reshape(-1).tolist()
    rank = len(x.shape) if x is not None and x.shape is not None else None
    keeps = mean.attributes.get_int("keepdims", 1) == 1
    return keeps and axes is not None and list(axes) in ([-1], [rank and rank - 1])
