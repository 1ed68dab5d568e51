"""What a case is, and one graph of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
SIZES = {"b": 2, "n": 5, "s": 7, "h": 9, "w": 6}
"""What open dimensions are in the runs."""
OPSET = 20


@dataclass(frozen=True)
class Case:
    """Nodes over inputs.

    Attributes:
        name: Of the case, and what its values' names begin with.
        nodes: Op type, inputs, outputs and attributes of each.
        inputs: Type and dimensions, open ones by name.
        constants: Initializers.
        low: Smallest number in the inputs.
        high: Largest.
        outputs: Names.
    """

    name: str
    nodes: Sequence[tuple[Any, ...]]
    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    constants: Mapping[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    outputs: tuple[str, ...] = ("o",)

    def feed(self, seed: int = 0) -> dict[str, Array]:
        """Numbers for its inputs, by the names they have in the graph."""
        rng = np.random.default_rng(seed)
        return {
            f"{self.name}.{name}": self._numbers(rng, dtype, dims)
            for name, (dtype, dims) in self.inputs.items()
        }

    def _numbers(self, rng: np.random.Generator, dtype: str, dims: Sequence[int | str]) -> Array:
        shape = [SIZES[dim] if isinstance(dim, str) else dim for dim in dims]
        if dtype == "bool":
            return rng.random(shape) < 0.5
        if dtype.startswith("float"):
            return rng.uniform(self.low, self.high, shape).astype(dtype)
        return rng.integers(int(self.low), int(self.high) + 1, shape).astype(dtype)


def one(op: str, *inputs: str, **attributes: Any) -> tuple[Any, ...]:
    return (op, list(inputs), ["o"], attributes)


def normal(*shape: int) -> Array:
    """Weights."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


F = ("float32", ("b", "n"))
IMAGE = ("float32", ("b", 3, "h", "w"))


def model_of(cases: Sequence[Case]) -> ir.Model:
    """One graph of all cases beside each other."""
    nodes, inputs, outputs, constants = [], [], [], []
    for case in cases:
        for at, (op, read, made, attributes) in enumerate(case.nodes):
            names = [f"{case.name}.{each}" if each else "" for each in read]
            ends = [f"{case.name}.{each}" for each in made]
            nodes.append(helper.make_node(op, names, ends, f"{case.name}/{at}", **attributes))
        for name, (dtype, dims) in case.inputs.items():
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            inputs.append(helper.make_tensor_value_info(f"{case.name}.{name}", kind, dims))
        for name, array in case.constants.items():
            constants.append(numpy_helper.from_array(np.asarray(array), f"{case.name}.{name}"))
        outputs += [onnx.ValueInfoProto(name=f"{case.name}.{name}") for name in case.outputs]
    graph = helper.make_graph(nodes, "cases", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return ir.serde.deserialize_model(proto)
