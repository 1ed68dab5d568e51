"""Feed-forward networks of a model: ``down · act(up x) [· gate x]``, with biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant, is_op, sole_consumer
from sparsecc.passes.fuse.activation import chains_after, recognized
from sparsecc.passes.weights.layers import Layer, find_layers, matrix

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A linear layer with the constant that is added to it.

    Attributes:
        layer: The layer.
        end: Its node, or the one behind it that adds the bias.
        bias: ``[outputs]``, zeros where there is none.
    """

    layer: Layer
    end: ir.Node
    bias: Array


@dataclass(frozen=True)
class FeedForward:
    """Two linear layers, or three, with an activation between them.

    Attributes:
        up: What is activated.
        gate: What then multiplies it, if anything does.
        down: The last layer; a bias that a node behind it adds is no part of it.
        activation: A name of ``ACTIVATIONS``.
    """

    up: Linear
    gate: Linear | None
    down: Linear
    activation: str

    @property
    def name(self) -> str:
        """Of the layer that is activated; unique in a model."""
        return self.up.layer.name

    @property
    def neurons(self) -> int:
        """Hidden features."""
        return self.up.layer.rows

    @property
    def features(self) -> int:
        """Of a token, before and behind."""
        return self.up.layer.cols

    def weights(self) -> dict[str, Array]:
        """``up [f, d]``, ``down [d, f]``, ``gate`` if there is one, biases of all of them."""
        parts = {"up": self.up, "gate": self.gate, "down": self.down}
        named = {name: part for name, part in parts.items() if part is not None}
        weights = {name: matrix(part.layer) for name, part in named.items()}
        return weights | {f"{name}_bias": part.bias for name, part in named.items()}


def feed_forwards(model: ir.Model) -> list[FeedForward]:
    """Those of a model in canonical form, in the order of the graph."""
    layers = [each for each in find_layers(model).layers if each.op in ("MatMul", "Gemm")]
    linears = {each.layer.node: each for layer in layers if (each := _linear(layer)) is not None}
    found = (_behind(up, linears, model.opset_imports[""]) for up in linears.values())
    return [each for each in found if each is not None]


def _linear(layer: Layer) -> Linear | None:
    """A layer with its bias; None where what is added to it varies."""
    node, own = layer.node, np.zeros(layer.rows, np.float32)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _bias(node.inputs[2], layer.rows)
        return None if bias is None else Linear(layer, node, bias)
    reader = sole_consumer(node.outputs[0])
    if is_op(reader, "Add"):
        assert reader is not None
        other = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
        bias = _bias(other, layer.rows)
        if bias is not None:
            return Linear(layer, reader, bias)
    return Linear(layer, node, own)


def _bias(value: ir.Value | None, rows: int) -> Array | None:
    array = constant(value)
    if array is None or array.size not in (1, rows) or array.size != max(array.shape, default=1):
        return None
    return np.broadcast_to(array.reshape(-1), (rows,)).astype(np.float32)


def _behind(up: Linear, linears: Mapping[ir.Node, Linear], opset: int) -> FeedForward | None:
    """The feed-forward network whose activated layer is `up`."""
    for chain in reversed(list(chains_after(up.end))):
        value = chain[-1].outputs[0]
        reader, gate = sole_consumer(value), None
        if is_op(reader, "Mul"):
            assert reader is not None
            other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
            gate = _ending_in(other, linears)
            if gate is None or not _alike(up, gate):
                continue
            reader = sole_consumer(reader.outputs[0])
        down = linears.get(reader) if reader is not None else None
        if down is None or not _closes(up, down):
            continue
        activation = recognized(up.end.outputs[0], chain, opset)
        if activation is not None:
            return FeedForward(up, gate, _own(down), activation)
    return None


def _ending_in(value: ir.Value | None, linears: Mapping[ir.Node, Linear]) -> Linear | None:
    """The layer that makes a value which nothing else reads."""
    if value is None or sole_consumer(value) is None:
        return None
    return next((each for each in linears.values() if each.end.outputs[0] is value), None)


def _alike(up: Linear, gate: Linear) -> bool:
    ours, theirs = up.layer, gate.layer
    return ours.input is theirs.input and (ours.rows, ours.cols) == (theirs.rows, theirs.cols)


def _closes(up: Linear, down: Linear) -> bool:
    return (down.layer.rows, down.layer.cols) == (up.layer.cols, up.layer.rows)


def _own(down: Linear) -> Linear:
    """The last layer without what a node behind it adds."""
    if down.end is down.layer.node:
        return down
    return Linear(down.layer, down.layer.node, np.zeros(down.layer.rows, np.float32))
