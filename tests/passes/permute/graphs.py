"""Small graphs whose channels are coupled in every way, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.permute.couplings import Coupled, Couplings

Arrays = dict[str, NDArray[Any]]


def canonical(proto: onnx.ModelProto) -> ir.Model:
    """The model as passes see it."""
    model = capture(proto)
    run(pipeline.EXACT_BEFORE, model, Context())
    return model


class Net:
    """A model in the making: float64, so that equal means equal, unless asked for otherwise.

    Args:
        shape: Of the input ``x``.
        seed: Of the weights.
        dtype: Of all numbers.
    """

    def __init__(
        self, shape: Sequence[int | str], seed: int = 0, dtype: type[np.floating] = np.float64
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Arrays = {}
        self.rng = np.random.default_rng(seed)

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; its output's name, or their names."""
        name = f"n{len(self.nodes)}"
        outs = [f"{name}.{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outs, name, **attributes))
        return outs[0] if outputs == 1 else outs

    def weight(self, *shape: int) -> str:
        """Random numbers around one."""
        name = f"w{len(self.weights)}"
        numbers = self.rng.normal(0.2, 1, shape) / max(1, np.prod(shape[1:])) ** 0.5
        self.weights[name] = numbers.astype(self.dtype)
        return name

    def ints(self, *values: int) -> str:
        """A vector of whole numbers."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def number(self, value: int) -> str:
        """A whole number."""
        name = self.ints(value)
        self.weights[name] = self.weights[name].reshape(())
        return name

    def conv(self, x: str, cols: int, rows: int, k: int = 1, group: int = 1) -> str:
        """A convolution with a bias that keeps the size."""
        weight, bias = self.weight(rows, cols // group, k, k), self.weight(rows)
        return self.op("Conv", x, weight, bias, pads=[k // 2] * 4, group=group)

    def linear(self, x: str, cols: int, rows: int) -> str:
        """A product and a bias."""
        return self.op("Add", self.op("MatMul", x, self.weight(cols, rows)), self.weight(rows))

    def build(self, output: str) -> onnx.ModelProto:
        """The model, whose output is named ``y``."""
        nodes = [*self.nodes, helper.make_node("Identity", [output], ["y"], "last")]
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def sizes(couplings: Couplings) -> list[tuple[int, int]]:
    """Units and classes of each set, sorted."""
    return sorted(coupled.units.shape for coupled in couplings.sets)


def cycles(couplings: Couplings, seed: int) -> list[tuple[Coupled, NDArray[np.int64]]]:
    """A random order of every set that leaves nothing where it is."""
    rng, orders = np.random.default_rng(seed), []
    for coupled in couplings.sets:
        ring = rng.permutation(len(coupled.units))
        order = np.empty_like(ring)
        order[ring] = np.roll(ring, 1)
        orders.append((coupled, order))
    return orders
