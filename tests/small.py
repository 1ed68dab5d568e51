"""Small models that several tests compile, as bytes of an ONNX file or as a protobuf."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import build, spec

Array = NDArray[np.float32]
Shapes = Mapping[str, Sequence[int | str]]

WIDTH, TOKENS = 256, 32
IMAGE = (1, 3, 64, 64)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    weights: Mapping[str, NDArray[np.generic]],
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of float inputs and outputs; weights are name → array."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=build.IR_VERSION)


@functools.cache
def _mobilenet(pattern: str) -> bytes:
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, IMAGE[-1])
    return build.build(layers, pattern).SerializeToString()


def mobilenet(pattern: str = "dense") -> onnx.ModelProto:
    """A thin MobileNetV1 over 64×64 pictures: input ``image``, output ``output``."""
    return onnx.load_from_string(_mobilenet(pattern))


def image(seed: int, batch: int = 1) -> Array:
    """Random pictures."""
    return np.random.default_rng(seed).standard_normal((batch, *IMAGE[1:])).astype(np.float32)


def mlp(rows: int | str = TOKENS) -> onnx.ModelProto:
    """Three linears, ``fc1``, ``fc2`` and ``head``: ``x [rows, 256]`` → ``y [rows, 10]``."""
    rng = np.random.default_rng(0)
    sizes = {"fc1": (WIDTH, WIDTH), "fc2": (WIDTH, WIDTH), "head": (WIDTH, 10)}
    weights: dict[str, Array] = {}
    for name, (cols, outputs) in sizes.items():
        weight = rng.normal(0, (2 / cols) ** 0.5, (cols, outputs))
        weights[f"{name}.weight"] = weight.astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    nodes = []
    for name, source, target in (("fc1", "x", "a"), ("fc2", "b", "c"), ("head", "d", "y")):
        names = [source, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Gemm", names, [target], name))
        if target != "y":
            nodes.append(helper.make_node("Relu", [target], [chr(ord(target) + 1)], f"{name}.act"))
    return model(nodes, {"x": [rows, WIDTH]}, {"y": [rows, 10]}, weights)


def tokens(seed: int, rows: int = TOKENS) -> Array:
    """Random inputs of :func:`mlp`."""
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
