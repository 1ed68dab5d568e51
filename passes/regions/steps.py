"""Which nodes the kernel library has a step for, and that step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels.attention import MOST_DIM
from sparsecc.backends.kernels.table import LEAST_FEATURES
from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.quantize.region_step import int8_step
from sparsecc.passes.weights.choose import has_few_rows

CODES = {activation.name: code for code, activation in enumerate(ACTIVATIONS)}
"""What programs call an activation."""
_ROW, _IMAGE = 2, 4
"""Ranks: of features ``[N, F]``, and of images ``[N, C, H, W]``."""
_SLOPE_ROUNDING = 1e-6
_WIDE = 16
"""Outputs in the lanes of ``matmul16``: its blocks have a multiple of so many rows."""
Rule = Callable[[ir.Node, Shapes], Step | str]
"""The step of a node, or why there is none."""


def step_of(node: ir.Node, shapes: Shapes) -> Step | str:
    """The step that computes a node, or a clause that says why the library has none."""
    if ops.is_sparse(node):
        return _sparse(node)
    if ops.is_attention(node):
        return f"an attention of other than [batch, heads, tokens, at most {MOST_DIM} features]"
    if ops.is_mixture(node):
        return _mixture(node)
    if ops.is_search(node):
        return f"a search of blocks with a constant step or index, or over {MOST_DIM} features"
    eight_bit = int8_step(node)
    if eight_bit is not None:
        return eight_bit
    rule = _RULES.get(node.op_type) if is_op(node, node.op_type) else None
    if rule is None:
        return f"the kernel library has no {node.op_type}"
    x = node.inputs[0]
    if x is None or x.dtype != ir.DataType.FLOAT:
        return f"{node.op_type} of values that are not float32"
    return rule(node, shapes)


def _make(node: ir.Node, kind: str, inputs: Sequence[ir.Value | None], *attributes: int) -> Step:
    names = tuple(str(value.name) for value in inputs if value is not None)
    return Step(kind, str(node.name), names, (str(node.outputs[0].name),), (), attributes)


def _sparse(node: ir.Node) -> Step:
    variant = ops.parse(node.op_type)
    named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
    names = {name: str(value.name) for name, value in named.items() if value is not None}
    data = [names[name] for name in ("X", "residual") if name in names]
    constants = [name for key, name in names.items() if key not in ("X", "residual")]
    attributes = ops.attributes_of(node)
    window: list[int] = []
    for key in ("strides", "pads", "dilations", "group"):
        value = attributes.get(key, [])
        window += [value] if isinstance(value, int) else value
    if variant.base == "SparseConv":
        kind, numbers = "conv", [*window, CODES[variant.activation]]
    elif not _tokens_in_lanes(node) and ops.read_packed(node).block[0] % _WIDE == 0:
        kind, numbers = "matmul16", [CODES[variant.activation], 0]
    else:
        kind, numbers = "matmul", [CODES[variant.activation], int(_tokens_in_lanes(node))]
    made = (str(node.outputs[0].name),)
    return Step(kind, str(node.name), tuple(data), made, tuple(constants), tuple(numbers))


def _mixture(node: ir.Node) -> Step | str:
    if not ops.is_packed_mixture(node):
        return "the weights of its experts are not packed"
    activation, gated = ops.parse_mixture(node.op_type)
    names = [str(value.name) for value in node.inputs if value is not None]
    routed = len(ops.ROUTED)
    numbers = [CODES[activation], int(gated), node.attributes["experts_count"].as_int()]
    if ops.bits_of(node.op_type) is not None:
        numbers.append(node.attributes["inputs_per_scale"].as_int())
    made = (str(node.outputs[0].name),)
    fixed = tuple(names[routed:])
    return Step("moe", str(node.name), tuple(names[:routed]), made, fixed, tuple(numbers))


def _tokens_in_lanes(node: ir.Node) -> bool:
    """Whether a sparse matmul is best with its tokens in the lanes.

    A few would leave lanes empty.
    """
    return min(ops.read_packed(node).shape) >= LEAST_FEATURES and not has_few_rows(node.inputs[0])


def _pool(node: ir.Node, shapes: Shapes) -> Step | str:
    read = node.attributes
    kernel = list(read.get_ints("kernel_shape", []))
    if len(kernel) != 2 or len(node.outputs) != 1:
        return "pooling of other than images, or with indices"
    if read.get_int("ceil_mode", 0) or list(read.get_ints("dilations", [1, 1])) != [1, 1]:
        return "pooling with ceil_mode or dilations"
    if read.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "pooling with auto_pad"
    pads = list(read.get_ints("pads", [0] * 4))
    if any(pad >= kernel[at % 2] for at, pad in enumerate(pads)):
        return "pooling windows that lie in the padding"
    strides = read.get_ints("strides", [1, 1])
    counts = read.get_int("count_include_pad", 0)
    is_max = int(node.op_type == "MaxPool")
    return _make(node, "pool", node.inputs[:1], is_max, *kernel, *strides, *pads, counts)


def _global_pool(node: ir.Node, shapes: Shapes) -> Step | str:
    return _mean(node, _IMAGE)


def _reduce_mean(node: ir.Node, shapes: Shapes) -> Step | str:
    second = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = list(node.attributes.get_ints("axes", [])) if second is None else second.tolist()
    if sorted(axis % _IMAGE for axis in axes) != [2, 3]:
        return "means over other axes than those of an image"
    return _mean(node, _IMAGE if node.attributes.get_int("keepdims", 1) else _ROW)


def _mean(node: ir.Node, rank: int) -> Step | str:
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != _IMAGE:
        return "means of other than images"
    return _make(node, "mean", [x], rank)


def _flatten(node: ir.Node, shapes: Shapes) -> Step | str:
    """Whatever keeps all elements of a sample in a row, or in an image of one pixel."""
    x, out = node.inputs[0], node.outputs[0]
    no_flattening = f"a {node.op_type} that is not a flattening"
    if x is None or x.shape is None or out.shape is None or len(x.shape) < _ROW:
        return no_flattening
    rest = list(x.shape)[1:]
    sizes = [dim for dim in rest if isinstance(dim, int)]
    wanted = [1] * (len(out.shape) - _ROW)
    if (
        len(sizes) != len(rest)
        or len(out.shape) not in (_ROW, _IMAGE)
        or list(out.shape)[1:] != [math.prod(sizes), *wanted]
    ):
        return no_flattening
    return _make(node, "flatten", [x], len(out.shape))


def _mul(node: ir.Node, shapes: Shapes) -> Step | str:
    """An image times a factor for each of its channels, as a squeeze-and-excite has it."""
    operands = [value for value in node.inputs if value is not None and constant(value) is None]
    if len(operands) == 2:
        for image, factors in (operands, operands[::-1]):
            sizes, own = shapes.terms(image), shapes.terms(factors)
            if sizes and own and len(sizes) == _IMAGE and own == (*sizes[:2], 1, 1):
                return _make(node, "scale", [image, factors])
    return "a product of other than an image and a factor for each channel"


def _softmax(node: ir.Node, shapes: Shapes) -> Step | str:
    x = node.inputs[0]
    rank = 0 if x is None or x.shape is None else len(x.shape)
    # Without an axis it is the last one from opset 13 on, and the second before.
    axis = node.attributes.get_int("axis", 1 if rank == _ROW else rank)
    if axis not in (-1, rank - 1):
        return "a Softmax over another axis than the last"
    return _make(node, "softmax", [x])


def _hard_sigmoid(node: ir.Node, shapes: Shapes) -> Step | str:
    slope, middle = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    if abs(slope - 1 / 6) > _SLOPE_ROUNDING or middle != 1 / 2:
        return "a HardSigmoid with another slope than 1/6"
    return _activation("hardsigmoid")(node, shapes)


def _add(node: ir.Node, shapes: Shapes) -> Step | str:
    a, b = node.inputs[:2]
    if a is None or b is None or constant(a) is not None or constant(b) is not None:
        return "a sum with a constant"
    if not shapes.equal(a, b):
        return "a sum of values that are not known to have the same shape"
    return _make(node, "add", [a, b], CODES["none"])


def _activation(name: str) -> Rule:
    def rule(node: ir.Node, shapes: Shapes) -> Step | str:
        return _make(node, "activation", node.inputs[:1], CODES[name])

    return rule


def _gelu(node: ir.Node, shapes: Shapes) -> Step | str:
    by_tanh = node.attributes.get_string("approximate", "none") == "tanh"
    return _activation("gelu_tanh" if by_tanh else "gelu")(node, shapes)


_RULES: dict[str, Rule] = {
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "ReduceMean": _reduce_mean,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Unsqueeze": _flatten,
    "Add": _add,
    "Mul": _mul,
    "Softmax": _softmax,
    "Gelu": _gelu,
    "Relu": _activation("relu"),
    "Sigmoid": _activation("sigmoid"),
    "HardSwish": _activation("hardswish"),
    "HardSigmoid": _hard_sigmoid,
}
