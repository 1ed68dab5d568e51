"""Benchmark models: text → ONNX with seeded random weights and exact zeros in a given pattern.

Weights are He-initialised; every convolution but those with `norm=0` carries a folded batch
normalisation whose statistics come from running the growing network on one random input, so
activations keep their scale through any depth. Pruned are convolutions of one group with more than
three input channels and linear layers with more than two outputs; stems and depthwise layers stay
dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import quantize, spec
from benchmarks.spec import Layer
from sparsecc.formats.patterns import SparsitySpec, mask_from_scores

Array = NDArray[np.float32]

OPSET = 17
IR_VERSION = 8  # what opset 17 shipped with, so that older runtimes read the files too
NORM_EPS = 1e-12
MASKED = -10000.0
PRIOR_PIXELS = 64
CALIBRATION_SEEDS = (2, 3, 4, 5)  # 1 is what is measured


@dataclass
class Graph:
    """A growing ONNX graph that evaluates each node as it is added.

    Attributes:
        opset: Default-domain opset, 11–17; what it lacks is written in older operators.
        zeros: Zeros of prunable layers.
        rng: The only source of randomness.
        values: Value of every tensor for the calibration input.
    """

    opset: int
    zeros: SparsitySpec
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)

    def param(self, name: str, value: NDArray[Any]) -> str:
        """Adds an initializer and returns its name."""
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        self.values[name] = value
        return name

    def op(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output, both called `name`, and returns that name."""
        node = helper.make_node(kind, inputs, [name], name, **attributes)
        self.nodes.append(node)
        self.values[name] = self.evaluate(node)
        return name

    def evaluate(self, node: onnx.NodeProto) -> NDArray[Any]:
        """Runs one node on the values of its inputs."""
        feeds = {name: np.asarray(self.values[name]) for name in node.input}
        infos = [_info(name, value) for name, value in feeds.items()]
        output = onnx.ValueInfoProto(name=node.output[0])
        graph = helper.make_graph([node], "node", infos, [output])
        session = ort.InferenceSession(_model(graph, self.opset).SerializeToString(), _options())
        return np.asarray(session.run(None, feeds)[0])

    def normal(self, shape: tuple[int, ...], deviation: float) -> Array:
        """Gaussian float32 numbers."""
        return self.rng.normal(0, deviation, shape).astype(np.float32)

    def activate(self, name: str, kind: str) -> str:
        """Adds activation `kind` ("" = none) after tensor `name`."""
        return ACTIVATIONS[kind](self, name) if kind else name


def prune(matrix: Array, zeros: SparsitySpec) -> Array:
    """Zeroes the smallest weights of matrix [outputs, inputs] and restores its root mean square."""
    if zeros.pattern is None or zeros.sparsity == 0:
        return matrix
    mask = mask_from_scores(np.square(matrix), zeros.pattern, zeros.sparsity)
    sparse = matrix * mask
    gain = np.sqrt(np.square(matrix).mean() / max(np.square(sparse).mean(), 1e-30))
    return np.asarray(sparse * gain, np.float32)


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def _info(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, dtype, value.shape)


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _relu6(graph: Graph, x: str) -> str:
    if "zero" not in graph.values:
        graph.param("zero", np.array(0, np.float32))
        graph.param("six", np.array(6, np.float32))
    return graph.op("Clip", [x, "zero", "six"], f"{x}.relu6")


def _silu(graph: Graph, x: str) -> str:
    return graph.op("Mul", [x, graph.op("Sigmoid", [x], f"{x}.sigmoid")], f"{x}.silu")


def _gelu(graph: Graph, x: str) -> str:
    """The five nodes that exporters write for the exact GELU before opset 20."""
    for name, value in (("gelu.sqrt2", 2**0.5), ("gelu.one", 1.0), ("gelu.half", 0.5)):
        if name not in graph.values:
            graph.param(name, np.array(value, np.float32))
    erf = graph.op("Erf", [graph.op("Div", [x, "gelu.sqrt2"], f"{x}.div")], f"{x}.erf")
    product = graph.op("Mul", [x, graph.op("Add", [erf, "gelu.one"], f"{x}.plus")], f"{x}.mul")
    return graph.op("Mul", [product, "gelu.half"], f"{x}.gelu")


def _hardswish(graph: Graph, x: str) -> str:
    if graph.opset >= 14:
        return graph.op("HardSwish", [x], f"{x}.hardswish")
    return graph.op("Mul", [x, _hardsigmoid(graph, x)], f"{x}.hardswish")


def _hardsigmoid(graph: Graph, x: str) -> str:
    return graph.op("HardSigmoid", [x], f"{x}.hardsigmoid", alpha=1 / 6, beta=0.5)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "relu": lambda graph, x: graph.op("Relu", [x], f"{x}.relu"),
    "relu6": _relu6,
    "hardswish": _hardswish,
    "hardsigmoid": _hardsigmoid,
    "sigmoid": lambda graph, x: graph.op("Sigmoid", [x], f"{x}.sigmoid"),
    "silu": _silu,
    "gelu": _gelu,
}


def inputs(layers: list[Layer], seed: int = 1) -> dict[str, NDArray[Any]]:
    """Seeded inputs of a model: Gaussian, or whole numbers in [low, high) where `high` is given."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for layer in layers:
        if layer.op == "input":
            shape = tuple(int(side) for side in layer.argument.split("x"))
            low, high = layer.number("low", 0), layer.number("high", 0)
            gaussian = rng.normal(0, 1, shape).astype(np.float32)
            feeds[layer.name] = rng.integers(low, high, shape) if high else gaussian
    return feeds


def _input(graph: Graph, layer: Layer) -> str:
    value = inputs([layer], seed=int(graph.rng.integers(2**31)))[layer.name]
    graph.values[layer.name] = value
    graph.inputs.append(_info(layer.name, value))
    return layer.name


def _variances(x: Array) -> Array:
    """Variance of each channel of x [N, C, H, W], drawn to their mean where few pixels tell it."""
    each, pixels = x.var(axis=(0, 2, 3)), x.size // x.shape[1]
    return np.asarray((pixels * each + PRIOR_PIXELS * each.mean()) / (pixels + PRIOR_PIXELS))


def _conv(graph: Graph, layer: Layer) -> str:
    x = graph.values[layer.inputs[0]]
    channels, depthwise = x.shape[1], layer.argument == "dw"
    out, group = (channels, channels) if depthwise else (int(layer.argument), 1)
    size = layer.number("k", 1)
    shape = (out, channels // group, size, size)
    weight = graph.normal(shape, (2 / (shape[1] * size * size)) ** 0.5)
    if group == 1 and channels > 3:
        by_input = weight.transpose(0, 2, 3, 1)  # one row per output, channels last
        matrix = prune(by_input.reshape(out, -1), graph.zeros)
        weight = matrix.reshape(by_input.shape).transpose(0, 3, 1, 2)
    attributes: dict[str, Any] = {
        "kernel_shape": [size, size],
        "strides": [layer.number("s", 1)] * 2,
        "pads": [layer.number("p", size // 2)] * 4,
        "group": group,
    }
    names = [layer.inputs[0], f"{layer.name}.weight"]
    scale, mean = np.ones(out), np.zeros(out)
    if layer.number("norm", 1):
        graph.values[names[1]] = weight
        raw = graph.evaluate(helper.make_node("Conv", names, ["raw"], **attributes))
        scale = graph.rng.uniform(0.8, 1.2, out) / np.sqrt(_variances(raw))
        mean = raw.mean(axis=(0, 2, 3)) * scale
    bias = graph.rng.normal(0, 0.1, out) - mean
    graph.param(names[1], (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32))
    names.append(graph.param(f"{layer.name}.bias", bias.astype(np.float32)))
    return graph.op("Conv", names, layer.name, **attributes)


def _linear(graph: Graph, layer: Layer) -> str:
    x = graph.values[layer.inputs[0]]
    out, inputs = int(layer.argument), x.shape[-1]
    weight = graph.normal((out, inputs), 0.7 / inputs**0.5)
    if out > 2:
        weight = prune(weight, graph.zeros)
    bias = graph.param(f"{layer.name}.bias", graph.normal((out,), 0.02))
    if x.ndim == 2:
        names = [layer.inputs[0], graph.param(f"{layer.name}.weight", weight), bias]
        return graph.op("Gemm", names, layer.name, transB=1)
    names = [layer.inputs[0], graph.param(f"{layer.name}.weight", weight.T)]
    # The layer's name stays on the product: that is the node a user knows as "the linear layer".
    return graph.op("Add", [bias, graph.op("MatMul", names, layer.name)], f"{layer.name}.add")


def _norm(graph: Graph, layer: Layer) -> str:
    width = graph.values[layer.inputs[0]].shape[-1]
    scale = graph.param(f"{layer.name}.scale", 1 + graph.normal((width,), 0.1))
    shift = graph.param(f"{layer.name}.shift", graph.normal((width,), 0.1))
    names = [layer.inputs[0], scale, shift]
    if graph.opset >= 17:
        return graph.op("LayerNormalization", names, layer.name, axis=-1, epsilon=NORM_EPS)
    return _norm_in_parts(graph, names, layer.name)


def _norm_in_parts(graph: Graph, inputs: list[str], name: str) -> str:
    """The nine nodes that exporters write for a layer normalisation before opset 17."""
    x, scale, shift = inputs
    eps = graph.param(f"{name}.eps", np.array(NORM_EPS, np.float32))
    two = graph.param(f"{name}.two", np.array(2, np.float32))
    mean = graph.op("ReduceMean", [x], f"{name}.mean", axes=[-1])
    centred = graph.op("Sub", [x, mean], f"{name}.centred")
    square = graph.op("Pow", [centred, two], f"{name}.square")
    variance = graph.op("ReduceMean", [square], f"{name}.variance", axes=[-1])
    deviation = graph.op("Sqrt", [graph.op("Add", [variance, eps], f"{name}.plus")], f"{name}.sqrt")
    unit = graph.op("Div", [centred, deviation], f"{name}.unit")
    return graph.op("Add", [graph.op("Mul", [unit, scale], f"{name}.mul"), shift], name)


def _embed(graph: Graph, layer: Layer) -> str:
    shape = (layer.number("vocabulary", 2), int(layer.argument))
    table = graph.param(f"{layer.name}.weight", graph.normal(shape, 1.0))
    return graph.op("Gather", [table, layer.inputs[0]], layer.name)


def _position(graph: Graph, layer: Layer) -> str:
    shape = graph.values[layer.inputs[0]].shape[1:]
    table = graph.param(f"{layer.name}.weight", graph.normal((1, *shape), 1.0))
    return graph.op("Add", [layer.inputs[0], table], layer.name)


def _mask(graph: Graph, layer: Layer) -> str:
    """1/0 flags [batch, tokens] → 0/−10000 summands [batch, 1, 1, tokens]."""
    one = graph.param(f"{layer.name}.one", np.array(1, np.float32))
    scale = graph.param(f"{layer.name}.scale", np.array(MASKED, np.float32))
    axes = graph.param(f"{layer.name}.axes", np.array([1, 2], np.int64))
    wide = graph.op("Unsqueeze", [layer.inputs[0], axes], f"{layer.name}.wide")
    flags = graph.op("Cast", [wide], f"{layer.name}.cast", to=TensorProto.FLOAT)
    return graph.op("Mul", [graph.op("Sub", [one, flags], f"{layer.name}.sub"), scale], layer.name)


def _attention(graph: Graph, layer: Layer) -> str:
    """softmax(q kᵀ / √d [+ mask]) v for [batch, tokens, width] inputs and `argument` heads."""
    name, heads = layer.name, int(layer.argument)
    query, key, value, *mask = layer.inputs
    batch, tokens, width = graph.values[query].shape
    split = graph.param(f"{name}.split", np.array([batch, tokens, heads, width // heads], np.int64))
    merge = graph.param(f"{name}.merge", np.array([batch, tokens, width], np.int64))
    root = graph.param(f"{name}.root", np.array((width // heads) ** 0.5, np.float32))

    def by_head(x: str, order: list[int], role: str) -> str:
        cut = graph.op("Reshape", [x, split], f"{name}.{role}.reshape")
        return graph.op("Transpose", [cut], f"{name}.{role}", perm=order)

    queries, keys = by_head(query, [0, 2, 1, 3], "q"), by_head(key, [0, 2, 3, 1], "k")
    scores = graph.op("MatMul", [queries, keys], f"{name}.scores")
    scores = graph.op("Div", [scores, root], f"{name}.scaled")
    if mask:
        scores = graph.op("Add", [scores, mask[0]], f"{name}.masked")
    shares = graph.op("Softmax", [scores], f"{name}.softmax", axis=-1)
    context = graph.op("MatMul", [shares, by_head(value, [0, 2, 1, 3], "v")], f"{name}.context")
    context = graph.op("Transpose", [context], f"{name}.transpose", perm=[0, 2, 1, 3])
    return graph.op("Reshape", [context, merge], name)


def _tokens(graph: Graph, layer: Layer) -> str:
    """Picture [batch, width, h, w] → a learned class token, then h·w tokens."""
    batch, width, height, columns = graph.values[layer.inputs[0]].shape
    shape = graph.param(f"{layer.name}.shape", np.array([batch, width, height * columns], np.int64))
    flat = graph.op("Reshape", [layer.inputs[0], shape], f"{layer.name}.flat")
    turned = graph.op("Transpose", [flat], f"{layer.name}.turned", perm=[0, 2, 1])
    first = graph.param(f"{layer.name}.class", graph.normal((batch, 1, width), 1.0))
    return graph.op("Concat", [first, turned], layer.name, axis=1)


def _select(graph: Graph, layer: Layer) -> str:
    index = graph.param(f"{layer.name}.index", np.array(int(layer.argument), np.int64))
    return graph.op("Gather", [layer.inputs[0], index], layer.name, axis=1)


def _mean(graph: Graph, layer: Layer) -> str:
    pooled = graph.op("GlobalAveragePool", list(layer.inputs), layer.name)
    return graph.op("Flatten", [pooled], f"{layer.name}.flat")


def _maxpool(graph: Graph, layer: Layer) -> str:
    size, stride, pad = layer.number("k", 3), layer.number("s", 2), layer.number("p", 1)
    attributes = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    return graph.op("MaxPool", list(layer.inputs), layer.name, **attributes)


OPS: dict[str, Callable[[Graph, Layer], str]] = {
    "input": _input,
    "conv": _conv,
    "linear": _linear,
    "add": lambda graph, layer: graph.op("Add", list(layer.inputs), layer.name),
    "mul": lambda graph, layer: graph.op("Mul", list(layer.inputs), layer.name),
    "norm": _norm,
    "embed": _embed,
    "position": _position,
    "mask": _mask,
    "attention": _attention,
    "tokens": _tokens,
    "select": _select,
    "mean": _mean,
    "pool": lambda graph, layer: graph.op("GlobalAveragePool", list(layer.inputs), layer.name),
    "maxpool": _maxpool,
}


def build(
    layers: list[Layer], pattern: str = "dense", *, seed: int = 0, opset: int = OPSET
) -> onnx.ModelProto:
    """Builds a model from its layers.

    Args:
        layers: `spec.load(name)`, `spec.parse(text)` or `spec.shrink(...)` of these.
        pattern: `"dense"`, `"unstructured:0.9"`, `"4x1:0.8"`, ...
        seed: Seed of the weights; the same arguments give the same bytes.
        opset: Default-domain opset, 11–17.

    Returns:
        A checked model whose output is called "output".

    Raises:
        ValueError: A layer is unknown, or the output is not finite.
        PlanError: The pattern is malformed.
    """
    graph = Graph(opset, SparsitySpec.parse(pattern), np.random.default_rng(seed))
    outputs: dict[str, str] = {}
    for layer in layers:
        if layer.op not in OPS:
            raise ValueError(f"{layer.name}: unknown layer {layer.op!r}; one of {', '.join(OPS)}")
        wired = replace(layer, inputs=tuple(outputs[name] for name in layer.inputs))
        raw = OPS[layer.op](graph, wired)
        outputs[layer.name] = graph.activate(raw, layer.options.get("act", ""))
    last = outputs[layers[-1].name]
    if not np.isfinite(graph.values[last]).all():
        raise ValueError(f"{last}: the output is not finite")
    graph.op("Identity", [last], "output")
    result = [_info("output", graph.values["output"])]
    proto = helper.make_graph(graph.nodes, "benchmark", graph.inputs, result, graph.initializers)
    model = _model(proto, opset)
    onnx.checker.check_model(model)
    return model


def write(
    name: str,
    pattern: str,
    folder: Path,
    layers: list[Layer] | None = None,
    *,
    seed: int = 0,
    opset: int = OPSET,
) -> Path:
    """Builds a model into `folder` unless it is there; returns its path.

    Args:
        name: A model of `benchmarks/models`, or what to call `layers`.
        pattern: Its zeros, such as "4x1:0.8"; "int8:4x4:0.8" for the same in eight bits.
        folder: Folder of models.
        layers: The layers of a model that has no file of its own.
        seed: Seed of the weights.
        opset: Default-domain opset.
    """
    older = "" if opset == OPSET else f"-opset{opset}"
    path = folder / f"{name}-{pattern.replace(':', '-')}-{seed}{older}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        layers = layers or spec.load(name)
        model = build(layers, quantize.float_pattern(pattern), seed=seed, opset=opset)
        if quantize.is_int8(pattern):
            model = quantize.quantized(model, [inputs(layers, at) for at in CALIBRATION_SEEDS])
        onnx.save(model, temporary)
        temporary.rename(path)
    return path
