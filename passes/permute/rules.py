"""How labels flow through each operator: one table, one place per operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant
from sparsecc.passes.permute import views
from sparsecc.passes.permute.flow import Flow, Operand, is_weight
from sparsecc.passes.permute.labels import Tag

Rule = Callable[[Flow, ir.Node], None]

ELEMENTWISE = """
    Abs Add And BitShift Cast Ceil Celu Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max
    Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin
    Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
"""
POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"
SHAPES = "Constant ConstantOfShape Range Shape Size"
"""Ops whose result does not depend on where the elements of an input are."""

OUTSIDE = "channels along another axis than the second reach a convolution or a pool"


def unknown(flow: Flow, node: ir.Node, values: Sequence[ir.Value | None] | None = None) -> None:
    """Leave the channels of everything that a node reads in place, and of what it makes."""
    name, reason = node.name or "", f"{node.op_type}: its channels are not followed"
    for value in node.inputs if values is None else values:
        if value is not None and is_weight(value):
            flow.labels.seal(value, name, reason)
        elif value is not None:
            flow.labels.stay(flow.tag(value), name, reason)
    for output in node.outputs:
        flow.put(output, flow.nothing(output))


def shape_only(flow: Flow, node: ir.Node) -> None:
    """What does not depend on the order of channels."""
    for output in node.outputs:
        flow.put(output, flow.nothing(output))


def elementwise(flow: Flow, node: ir.Node) -> None:
    """Each output element depends on one element of each input, which may broadcast."""
    values = [value for value in node.inputs if value is not None]
    tag = flow.meet(node, [flow.operand(value, node) for value in values])
    for output in node.outputs:
        flow.put(output, tag)


def reduction(flow: Flow, node: ir.Node) -> None:
    """Sums, means, norms or extremes along axes."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    tag = flow.tag(x)
    given = node.attributes.get_ints("axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        listed = constant(node.inputs[1])
        if listed is None:
            unknown(flow, node)
            return
        given = [int(axis) for axis in listed.ravel()]
    if not given:
        noop = bool(node.attributes.get_int("noop_with_empty_axes", 0))
        given = [] if noop else list(range(tag.ndim))
    axes = [axis % tag.ndim for axis in given]
    left = flow.add_up(tag, axes)
    if not node.attributes.get_int("keepdims", 1):
        left = left.reshape([n for axis, n in enumerate(left.shape) if axis not in axes])
    flow.put(out, left)


def choice(flow: Flow, node: ir.Node) -> None:
    """ArgMax and ArgMin: the position found is a number, so channels along that axis stay."""
    x = node.inputs[0]
    assert x is not None
    tag = flow.tag(x)
    axis = node.attributes.get_int("axis", 0) % tag.ndim
    if tag.shape[axis] > 1:
        unknown(flow, node)
        return
    if not node.attributes.get_int("keepdims", 1):
        tag = tag.reshape([n for at, n in enumerate(tag.shape) if at != axis])
    flow.put(node.outputs[0], tag)


def softmax(flow: Flow, node: ir.Node) -> None:
    """Element by element, given a sum along an axis (before opset 13: along all that follow)."""
    x = node.inputs[0]
    assert x is not None
    tag = flow.tag(x)
    old = (node.version or _opset(node)) < 13
    axis = node.attributes.get_int("axis", 1 if old else -1) % tag.ndim
    flow.add_up(tag, range(axis, tag.ndim) if old else [axis])
    flow.put(node.outputs[0], tag)


def _opset(node: ir.Node) -> int:
    graph = node.graph
    return graph.opset_imports.get("", 13) if isinstance(graph, ir.Graph) else 13


def pool(flow: Flow, node: ir.Node) -> None:
    """Windows over pixels: channels are kept."""
    x = node.inputs[0]
    assert x is not None
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        unknown(flow, node)  # where a maximum was, counted through all channels
        return
    flow.put(node.outputs[0], flow.only_along(flow.tag(x), (0, 1), node, OUTSIDE))


def pad(flow: Flow, node: ir.Node) -> None:
    """More positions along axes: those along which there are none keep their channels."""
    x = node.inputs[0]
    assert x is not None
    tag = flow.tag(x)
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if pads is None or pads.size != 2 * tag.ndim or len(node.inputs) > 3:
        unknown(flow, node)
        return
    kept = [axis for axis in range(tag.ndim) if not pads[axis] and not pads[axis + tag.ndim]]
    flow.put(node.outputs[0], flow.only_along(tag, kept, node, "Pad along an axis of channels"))


def resize(flow: Flow, node: ir.Node) -> None:
    """Resize, Upsample and Tile keep the axes whose size stays."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        unknown(flow, node)
        return
    before, after = flow.sizes(x), flow.sizes(out)
    kept = [
        axis
        for axis, (old, new) in enumerate(zip(before or (), after or (), strict=False))
        if old == new
    ]
    tag = flow.only_along(flow.tag(x), kept, node, f"{node.op_type} along an axis of channels")
    flow.put(out, tag)


def layer_norm(flow: Flow, node: ir.Node) -> None:
    """Element by element, given sums along the last axes, with a scale and a bias."""
    x = node.inputs[0]
    assert x is not None
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        unknown(flow, node)
        return
    values = [value for value in node.inputs if value is not None]
    axis = node.attributes.get_int("axis", -1) % flow.tag(x).ndim
    flow.add_up(flow.tag(x), range(axis, flow.tag(x).ndim))
    tag = flow.meet(node, [flow.operand(value, node) for value in values])
    flow.put(node.outputs[0], tag)


def channel_norm(flow: Flow, node: ir.Node) -> None:
    """BatchNormalization and InstanceNormalization: numbers per channel, the second axis."""
    x = node.inputs[0]
    assert x is not None
    tag = flow.tag(x)
    if node.op_type == "InstanceNormalization":
        flow.add_up(tag, range(2, tag.ndim))
    operands = [flow.operand(x, node)]
    for value in node.inputs[1:]:
        assert value is not None
        operands.append(_along(flow.operand(value, node), 1, tag.ndim))
    flow.put(node.outputs[0], flow.meet(node, operands))


def _along(vector: Operand, axis: int, rank: int) -> Operand:
    """A vector that lies along one axis."""
    shape = tuple(-1 if at == axis else 1 for at in range(rank))
    sizes = tuple(vector.sizes[0] if at == axis else 1 for at in range(rank))
    if vector.tag is not None:
        return Operand(sizes, vector.tag.reshape(shape))
    label = vector.label
    assert label is not None
    return Operand(sizes, None, lambda _: label((0,)).reshape(shape))


def convolution(flow: Flow, node: ir.Node) -> None:
    """Rows of the weight are the output's channels, its columns the input's."""
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    tag = flow.only_along(flow.tag(x), (1,), node, OUTSIDE)
    if not is_weight(weight):
        unknown(flow, node)
        return
    shape = [int(str(size)) for size in flow.sizes(weight) or ()]
    rows = _grouped(flow, node, weight, shape, groups, tag)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        sizes = (shape[0],)
        bias = flow.operand(node.inputs[2], node)
        rows = flow.meet(node, [Operand(sizes, rows), bias])
    flow.put(node.outputs[0], rows.reshape(1, -1, *(1,) * (tag.ndim - 2)))


def _grouped(
    flow: Flow, node: ir.Node, weight: ir.Value, shape: list[int], groups: int, x: Tag
) -> Tag:
    """The labels of the rows ``[O]`` of a convolution whose input channels are labelled `x`.

    Channels of a group are nested in it, those that come in and those that go out.
    """
    name, width = node.name or "", shape[1]
    seen = (groups, shape[0] // groups, *shape[1:])
    rows = flow.labels.constant(weight, seen, (0, 1), name, shared=(0,))
    rows = rows.reshape(seen[0], seen[1])
    inputs = x.reshape(groups, width) if x.size > 1 else None
    if groups == 1:
        if inputs is not None:
            cols = flow.labels.constant(weight, seen, (2,), name)
            flow.labels.join(cols.reshape(1, width), inputs, name)
        return rows.ravel()
    held = flow.labels.fresh((groups, 1))
    if inputs is None:
        flow.labels.stay(held, name, "a grouped convolution reads channels that stay in place")
    elif width > 1:
        cols = flow.labels.constant(weight, seen, (0, 2), name, shared=(0,)).reshape(groups, width)
        flow.labels.join(cols, inputs, name)
        flow.labels.nest(cols, held)
    elif seen[1] > 1:
        flow.labels.join(held, inputs, name)
    else:
        flow.labels.join(rows, inputs, name)
        return rows.ravel()
    flow.labels.nest(rows, held)
    return rows.ravel()


def transposed_convolution(flow: Flow, node: ir.Node) -> None:
    """As a convolution, with the weight ``[I, O, ...]``; groups are not followed."""
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    if node.attributes.get_int("group", 1) != 1 or not is_weight(weight):
        unknown(flow, node)
        return
    name = node.name or ""
    tag = flow.only_along(flow.tag(x), (1,), node, OUTSIDE)
    seen = tuple(int(str(size)) for size in flow.sizes(weight) or ())
    rows = flow.labels.constant(weight, seen, (1,), name).ravel()
    if tag.size > 1:
        flow.labels.join(flow.labels.constant(weight, seen, (0,), name).ravel(), tag.ravel(), name)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        rows = flow.meet(node, [Operand((seen[1],), rows), flow.operand(node.inputs[2], node)])
    flow.put(node.outputs[0], rows.reshape(1, -1, *(1,) * (tag.ndim - 2)))


def product(flow: Flow, node: ir.Node) -> None:
    """A MatMul: by a weight, or of two values that were computed."""
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    sizes = [flow.sizes(a) or (), flow.sizes(b) or ()]
    if min(map(len, sizes)) < 2 or is_weight(a):
        unknown(flow, node)
    elif is_weight(b) and len(sizes[1]) == 2:
        flow.put(node.outputs[0], _by_weight(flow, node, a, b, (0, 1)))
    elif is_weight(b):
        unknown(flow, node)
    else:
        flow.put(node.outputs[0], _of_two(flow, node, a, b))


def _of_two(flow: Flow, node: ir.Node, a: ir.Value, b: ir.Value) -> Tag:
    """Products of ``[..., M, K, 1]`` and ``[..., 1, K, N]`` element by element, summed up."""
    left, right = flow.operand(a, node), flow.operand(b, node)
    assert left.tag is not None
    assert right.tag is not None
    first = Operand((*left.sizes, 1), left.tag[..., None])
    second = Operand(
        (*right.sizes[:-2], 1, *right.sizes[-2:]), np.expand_dims(right.tag, right.tag.ndim - 2)
    )
    tag = flow.meet(node, [first, second])
    return flow.add_up(tag, [tag.ndim - 2])[..., 0, :]


def _by_weight(
    flow: Flow, node: ir.Node, x: ir.Value, weight: ir.Value, axes: tuple[int, int]
) -> Tag:
    """The tag of a product of ``x[..., K]`` by a weight whose axes for K and N are given."""
    name, operand = node.name or "", flow.operand(x, node)
    seen = tuple(int(str(size)) for size in flow.sizes(weight) or ())
    inputs, outputs = axes

    def columns(_: tuple[int, ...]) -> Tag:
        return flow.labels.constant(weight, seen, (inputs,), name).ravel()

    tag = flow.meet(node, [operand, Operand((seen[inputs],), None, columns)])
    left = flow.add_up(tag, [tag.ndim - 1])
    rows = flow.labels.constant(weight, seen, (outputs,), name).ravel()
    summed = Operand((*operand.sizes[:-1], 1), left)
    return flow.meet(node, [summed, Operand((seen[outputs],), rows)])


def gemm(flow: Flow, node: ir.Node) -> None:
    """A matrix product with a bias."""
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    if node.attributes.get_int("transA", 0) or not is_weight(weight) or is_weight(x):
        unknown(flow, node)
        return
    rows_first = bool(node.attributes.get_int("transB", 0))
    tag = _by_weight(flow, node, x, weight, (1, 0) if rows_first else (0, 1))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        sizes = flow.sizes(node.outputs[0])
        assert sizes is not None
        tag = flow.meet(node, [Operand(sizes, tag), flow.operand(node.inputs[2], node)])
    flow.put(node.outputs[0], tag)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(REDUCTIONS.split(), reduction),
    **dict.fromkeys(POOLS.split(), pool),
    **dict.fromkeys(SHAPES.split(), shape_only),
    **views.RULES,
    "ArgMax": choice,
    "ArgMin": choice,
    "BatchNormalization": channel_norm,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": gemm,
    "InstanceNormalization": channel_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax,
    "MatMul": product,
    "Pad": pad,
    "RMSNormalization": layer_norm,
    "Resize": resize,
    "Softmax": softmax,
    "Tile": resize,
    "Upsample": resize,
}
"""Op → how labels get through it; what is not here keeps channels in place."""

__all__ = ["RULES", "unknown"]
