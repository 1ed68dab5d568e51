"""The layers whose weights can be pruned, and why the others stay dense.

Every layer is seen as a matrix ``W[R, K]``: R outputs, K inputs (a convolution's K runs over
kernel row, kernel column, input channel of its group).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import ModelError
from sparsecc.passes import edit
from sparsecc.passes.base import Refusal
from sparsecc.quality.segments import static_nodes

PASS_NAME = "weight-sparsity"

TINY_SIDE = 16
"""Fewer rows or inputs than this never pay for their index."""
TINY_MACS = 16_384
STEM_CHANNELS = 4

_WEIGHT_INPUT = {"Conv": 1, "MatMul": 1, "Gemm": 1}
_LEFT_DENSE = {
    "LSTM": (1, "recurrent: left dense"),
    "GRU": (1, "recurrent: left dense"),
    "RNN": (1, "recurrent: left dense"),
    "ConvTranspose": (1, "transposed convolution: left dense"),
    "Gather": (0, "embedding table: rows are looked up, not multiplied"),
    "Einsum": (1, "einsum: left dense"),
    "QLinearConv": (3, "quantised weight"),
    "ConvInteger": (1, "quantised weight"),
    "QLinearMatMul": (3, "quantised weight"),
    "MatMulInteger": (1, "quantised weight"),
}
_KEEPS_CLASSES = frozenset(
    {"Softmax", "LogSoftmax", "Sigmoid", "Relu", "Tanh", "HardSigmoid", "Clip"}
    | {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Identity"}
    | {"Add", "Sub", "Mul", "Div", "ArgMax", "TopK"}
)
"""Ops between a classifier and a graph output, or a router and its choice."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A node whose constant weight can be pruned.

    Attributes:
        name: The node's name, unique among the layers.
        node: The node, in the model's main graph.
        op: ``"Conv"``, ``"MatMul"`` or ``"Gemm"``.
        rows: R, all groups together.
        cols: K, inputs of one output.
        groups: Convolution groups (1 otherwise); rows split evenly among them.
        kernel: Kernel height and width ((1, 1) for matrix products).
        macs: Multiply-adds for one sample, or None where the output shape is not known.
        keep_dense: Why the layer is not pruned unless asked for by name, or "".
    """

    name: str
    node: ir.Node
    op: str
    rows: int
    cols: int
    groups: int
    kernel: tuple[int, int]
    macs: int | None
    keep_dense: str = ""

    @property
    def input(self) -> ir.Value:
        """The activation the weight multiplies."""
        value = self.node.inputs[0]
        assert value is not None
        return value


@dataclasses.dataclass(frozen=True)
class Survey:
    """What :func:`find_layers` saw, both lists in the order of the graph."""

    layers: tuple[Layer, ...]
    refusals: tuple[Refusal, ...]


def find_layers(model: ir.Model) -> Survey:
    """List the prunable layers of ``model`` and the reasons of everything that is left out."""
    layers: list[Layer] = []
    refusals: list[Refusal] = []
    names: set[str] = set()
    static = static_nodes(model.graph)
    for node in model.graph:
        refusals += [
            Refusal(PASS_NAME, inner.name or "", f"inside the body of {node.op_type}")
            for inner in _nested_nodes(node)
            if inner.op_type in _WEIGHT_INPUT and stored_weight(inner) is not None
        ]
        found = _inspect(node)
        if isinstance(found, Layer) and node in static:
            found = "input is constant too: nothing to compute at run time"
        if isinstance(found, str):
            refusals.append(Refusal(PASS_NAME, node.name or "", found))
        elif found is not None:
            name = _unique(found, names)
            names.add(name)
            layers.append(dataclasses.replace(found, name=name))
    return Survey(tuple(_with_defaults(model.graph, layers)), tuple(refusals))


def matrix(layer: Layer) -> NDArray[np.floating]:
    """The weight as a new array ``[R, K]``, in its stored dtype.

    Raises:
        ModelError: The weight holds NaN or infinity.
    """
    array = _weight_array(layer.node)
    assert array is not None, f"{layer.name} lost its constant weight"
    if not np.isfinite(array).all():
        raise ModelError(
            f"the weight of shape {list(array.shape)} holds NaN or infinity",
            node=layer.name,
            fix="export the model again from a checkpoint whose weights are finite",
        )
    return as_matrix(layer, array)


def as_matrix(layer: Layer, array: NDArray[Any]) -> NDArray[Any]:
    """An array of the weight's shape as a new one ``[R, K]``."""
    if layer.op == "Conv":
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).reshape(layer.rows, layer.cols)
    return np.array(array if rows_first(layer) else array.T, order="C")


def stored(layer: Layer, weight: NDArray[Any]) -> NDArray[Any]:
    """An array ``[R, K]`` in the weight's own layout."""
    if layer.op == "Conv":
        square = weight.reshape(layer.rows, *layer.kernel, -1)
        return square.transpose(0, 3, 1, 2)
    return weight if rows_first(layer) else weight.T


def set_matrix(layer: Layer, weight: NDArray[np.floating]) -> None:
    """Write ``weight[R, K]`` back into the model, in the dtype and layout the node expects."""
    value = layer.node.inputs[1]
    old = _weight_array(layer.node)
    assert value is not None
    assert old is not None
    new = np.ascontiguousarray(stored(layer, weight), old.dtype)
    if value.is_initializer():
        value.const_value = ir.tensor(new, name=value.name)
    else:
        fresh = edit.new_initializer(layer.node, f"{layer.name}.weight", new)
        layer.node.replace_input_with(1, fresh)


def _unique(layer: Layer, taken: set[str]) -> str:
    output = layer.node.outputs[0].name or ""
    name = layer.node.name or f"{layer.op}_{output}"
    return name if name not in taken else f"{name}:{output}"


def rows_first(layer: Layer) -> bool:
    """Whether the stored matrix is ``[R, K]`` (Gemm with transB) rather than ``[K, R]``."""
    return layer.op == "Gemm" and bool(layer.node.attributes.get_int("transB", 0))


def _nested_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()


def stored_weight(node: ir.Node) -> ir.Value | None:
    """The initializer, or output of a Constant, behind the weight input of a Conv or product."""
    value = node.inputs[_WEIGHT_INPUT[node.op_type]]
    while value is not None:
        producer = value.producer()
        if producer is None:
            return value if value.is_initializer() and not value.is_graph_input() else None
        if edit.is_op(producer, "Constant"):
            return value
        if not edit.is_op(producer, "Transpose", "Identity"):
            return None
        value = producer.inputs[0]
    return None


def _weight_array(node: ir.Node) -> NDArray[Any] | None:
    return _through_transposes(node.inputs[_WEIGHT_INPUT[node.op_type]])


def _through_transposes(value: ir.Value | None) -> NDArray[Any] | None:
    array: NDArray[Any] | None = edit.constant(value)
    producer = value.producer() if value is not None else None
    if array is None and producer is not None and edit.is_op(producer, "Transpose", "Identity"):
        array = _through_transposes(producer.inputs[0])
        if array is not None and producer.op_type == "Transpose":
            array = array.transpose(producer.attributes.get_ints("perm", None))
    return array


def _inspect(node: ir.Node) -> Layer | str | None:
    """A layer, the reason it is none, or None when the node has no weight at all."""
    if not edit.is_op(node, *_WEIGHT_INPUT, *_LEFT_DENSE):
        return None
    if node.op_type in _LEFT_DENSE:
        position, reason = _LEFT_DENSE[node.op_type]
        value = node.inputs[position] if position < len(node.inputs) else None
        return reason if _is_big_constant(value) else None
    stored = stored_weight(node)
    if stored is None:
        return _why_not_constant(node)
    if _is_shared(node):
        return "weight shared by several nodes"
    if not _floating(node.inputs[0], stored):
        return "weight is not floating point"
    return _layer_of_conv(node) if node.op_type == "Conv" else _layer_of_product(node)


def _is_big_constant(value: ir.Value | None) -> bool:
    if value is None or edit.constant(value) is None:
        return False
    return value.shape is not None and len(value.shape) >= 2 and math.prod(value.shape.numpy()) > 64


def _why_not_constant(node: ir.Node) -> str | None:
    value = node.inputs[_WEIGHT_INPUT[node.op_type]]
    producer = value.producer() if value is not None else None
    if edit.is_op(producer, "DequantizeLinear"):
        return "quantised weight (QDQ)"
    if node.op_type == "Conv":
        return "weight is not constant"
    if _is_big_constant(node.inputs[0]):
        return "the constant is the left factor"
    return None


def _is_shared(node: ir.Node) -> bool:
    """Whether any value from the weight input back to its storage has a second reader."""
    value = node.inputs[_WEIGHT_INPUT[node.op_type]]
    while value is not None:
        if len(value.uses()) > 1 or value.is_graph_output():
            return True
        producer = value.producer()
        if producer is None or not producer.inputs:
            return False
        value = producer.inputs[0]
    return False


def _floating(*values: ir.Value | None) -> bool:
    return all(v is None or v.dtype is None or v.dtype.is_floating_point() for v in values)


def _layer_of_conv(node: ir.Node) -> Layer | str:
    weight = _weight_array(node)
    assert weight is not None
    if weight.ndim != 4:
        return f"{weight.ndim - 2}-D convolution: only 2-D is pruned"
    rows, channels, height, width = weight.shape
    groups = node.attributes.get_int("group", 1)
    if groups > 1 and channels == 1:
        return "depthwise convolution: left dense"
    return Layer(
        name="",
        node=node,
        op="Conv",
        rows=rows,
        cols=channels * height * width,
        groups=groups,
        kernel=(height, width),
        macs=_macs(node, weight.size, spatial=slice(2, 4)),
    )


def _layer_of_product(node: ir.Node) -> Layer | str:
    weight = _weight_array(node)
    assert weight is not None
    if weight.ndim != 2:
        return f"weight of rank {weight.ndim}: only matrices are pruned"
    if node.attributes.get_int("transA", 0):
        return "transposed activation (transA): left dense"
    rows_first = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    rows, cols = weight.shape if rows_first else weight.shape[::-1]
    return Layer(
        name="",
        node=node,
        op=node.op_type,
        rows=rows,
        cols=cols,
        groups=1,
        kernel=(1, 1),
        macs=_macs(node, weight.size, spatial=slice(1, -1)),
    )


def _macs(node: ir.Node, weight_size: int, spatial: slice) -> int | None:
    """Weight elements times output positions of one sample; None if a dimension is symbolic."""
    shape = node.outputs[0].shape
    if shape is None:
        return None
    sides = list(shape)[spatial]
    if not all(isinstance(side, int) for side in sides):
        return None
    return weight_size * math.prod(int(side) for side in sides if isinstance(side, int))


def _with_defaults(graph: ir.Graph, layers: list[Layer]) -> Iterator[Layer]:
    weighted = {layer.node for layer in layers}
    stems, lasts = _stems(graph, layers), _leading_to(weighted, graph.outputs)
    choices = [node.inputs[0] for node in graph if edit.is_op(node, "TopK")]
    routers = _leading_to(weighted, [value for value in choices if value is not None])
    for layer in layers:
        reason = ""
        if min(layer.rows // layer.groups, layer.cols) < TINY_SIDE:
            reason = f"tiny: fewer than {TINY_SIDE} outputs or inputs"
        elif layer.macs is not None and layer.macs < TINY_MACS:
            reason = f"tiny: {layer.macs} multiply-adds"
        elif layer.node in stems:
            reason = f"first layer: at most {STEM_CHANNELS} input channels"
        elif layer.node in lasts:
            reason = "last layer: feeds a graph output"
        elif layer.node in routers:
            reason = "router: its outputs are compared"
        yield dataclasses.replace(layer, keep_dense=reason)


def _stems(graph: ir.Graph, layers: Iterable[Layer]) -> set[ir.Node]:
    """Convolutions of few channels with no other weight layer before them."""
    weighted = {layer.node for layer in layers}
    after: set[ir.Node] = set()
    stems: set[ir.Node] = set()
    for node in graph:
        producers = {v.producer() for v in node.inputs if v is not None} - {None}
        behind = any(p in after or p in weighted for p in producers)
        if behind:
            after.add(node)
        elif edit.is_op(node, "Conv") and node in weighted:
            weight = _weight_array(node)
            if weight is not None and weight.shape[1] <= STEM_CHANNELS:
                stems.add(node)
    return stems


def _leading_to(weighted: set[ir.Node], values: Iterable[ir.Value]) -> set[ir.Node]:
    """Layers that reach one of these values through element-wise and shape ops alone."""
    found: set[ir.Node] = set()
    todo = [value.producer() for value in values]
    seen: set[ir.Node] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in weighted:
            found.add(node)
        elif edit.is_op(node, *_KEEPS_CLASSES):
            varying = [v for v in node.inputs if v is not None and edit.constant(v) is None]
            if len(varying) == 1:
                todo.append(varying[0].producer())
    return found
