"""Small models in which layers of the library lie between nodes it has no step for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WORDS, WIDTH = 50, 32


def pooled() -> onnx.ModelProto:
    """Token ids and a mask, open batch and length, to the mean of what two sparse layers make."""
    rng = np.random.default_rng(5)
    first, second = (_sparse(rng, *shape) for shape in ((WIDTH, 64), (64, WIDTH)))
    constants: dict[str, Any] = {
        "table": rng.standard_normal((WORDS, WIDTH)),
        "positions": rng.standard_normal((40, WIDTH)),
        "w1": first,
        "b1": rng.standard_normal(64),
        "w2": second,
        "b2": rng.standard_normal(WIDTH),
        "tiny": np.array(1e-9),
    }
    whole = {"zero": [0], "one": [1], "last": [2]}
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["words"], "words"),
        node("Shape", ["ids"], ["length"], "length", start=1, end=2),
        node("Slice", ["positions", "zero", "length", "zero"], ["places"], "places"),
        node("Add", ["words", "places"], ["x"], "sum"),
        node("MatMul", ["x", "w1"], ["h0"], "up"),
        node("Add", ["h0", "b1"], ["h1"], "up_bias"),
        node("Relu", ["h1"], ["h2"], "relu"),
        node("MatMul", ["h2", "w2"], ["h3"], "down"),
        node("Add", ["h3", "b2"], ["h4"], "down_bias"),
        node("Cast", ["mask"], ["m"], "mask_float", to=TensorProto.FLOAT),
        node("Unsqueeze", ["m", "last"], ["m3"], "mask_last"),
        node("Mul", ["h4", "m3"], ["kept"], "kept"),
        node("ReduceSum", ["kept", "one"], ["total"], "total", keepdims=0),
        node("ReduceSum", ["m3", "one"], ["count"], "count", keepdims=0),
        node("Max", ["count", "tiny"], ["some"], "some"),
        node("Div", ["total", "some"], ["y"], "mean"),
    ]
    values = [numpy_helper.from_array(np.float32(each), name) for name, each in constants.items()]
    values += [numpy_helper.from_array(np.int64(each), name) for name, each in whole.items()]
    size = ["batch", "tokens"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, size) for name in ("ids", "mask")
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])]
    graph = helper.make_graph(nodes, "pooled", inputs, outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def grown() -> onnx.ModelProto:
    """A picture through a sparse convolution, and through what the library has no step for."""
    rng = np.random.default_rng(6)
    constants = {
        "w": _sparse(rng, 16, 16).T[..., None, None],
        "scale": rng.standard_normal(16),
        "bias": rng.standard_normal(16),
        "up": rng.standard_normal((16, 4, 2, 2)),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["h"], "mix"),
        node("InstanceNormalization", ["h", "scale", "bias"], ["n"], "norm"),
        node("ConvTranspose", ["n", "up"], ["y"], "grow", strides=[2, 2]),
    ]
    values = [numpy_helper.from_array(np.float32(each), name) for name, each in constants.items()]
    ends = {"x": [1, 16, 8, 8], "y": [1, 4, 16, 16]}
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in ends.items()
    )
    graph = helper.make_graph(nodes, "grown", [x], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def feed(batch: int, tokens: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs of :func:`pooled`; the last token of every row is masked where there are others."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, tokens), np.int64)
    mask[:, max(1, tokens - 1) :] = 0
    return {"ids": rng.integers(0, WORDS, (batch, tokens)), "mask": mask}


def _sparse(rng: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.float64]:
    kept = np.repeat(rng.random((inputs, outputs // 4)) < 0.3, 4, axis=1)
    return rng.standard_normal((inputs, outputs)) * kept
