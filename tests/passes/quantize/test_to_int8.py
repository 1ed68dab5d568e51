"""QDQ models as eight-bit ops: their bodies in a stock runtime, and the kernels' steps."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from benchmarks import build, spec
from sparsecc import targets
from sparsecc.backends.kernels.step_harness import Step, Tensor, build_steps, run_step
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.ops import int8
from sparsecc.passes import edit, pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.quantize.region_step import int8_step
from sparsecc.passes.quantize.to_int8 import ToInt8
from tests import small

Array = NDArray[Any]
LSB = 1.01


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = [small.image(seed) for seed in range(3)]

    def get_next(self) -> dict[str, Array] | None:
        return {"image": self._left.pop()} if self._left else None


@functools.cache
def _foreign(name: str, signed: bool, per_channel: bool) -> bytes:
    """A model that ONNX Runtime's own tool quantized."""
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    proto = build.build(spec.shrink(spec.load(name), 0.25, small.IMAGE[-1]), "4x4:0.5")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "qdq.onnx")
        quantize_static(proto, path, _Samples(), per_channel=per_channel, activation_type=kind)
        return path.read_bytes()


def _lowered(content: bytes) -> tuple[ir.Model, Context]:
    model, ctx = capture(onnx.load_from_string(content)), Context(verify=True)
    run([*pipeline.EXACT_BEFORE, *pipeline.EXACT_AFTER, ToInt8()], model, ctx)
    return model, ctx


def _meaning(content: bytes, x: Array) -> Array:
    """What the QDQ nodes say, one by one."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    result: Array = onnxruntime.InferenceSession(content, options).run(None, {"image": x})[0]
    return result


def _step_by_step(model: ir.Model, x: Array) -> Array:
    """The same by the kernels, in a process each."""
    isa = targets.get("native").isas[-1]
    if isa.startswith("arm64"):
        pytest.skip("the harness's bytes are those of x86")
    command = [str(build_steps(isa, dot=False))]
    values = {"image": Tensor(x, x.shape)}
    for node in model.graph:
        step = int8_step(node)
        if step is None:
            assert node.op_type == "Flatten"
            read = values[str(node.inputs[0].name)]  # type: ignore[union-attr]
            flat = read.data.reshape(len(x), -1)
            values[str(node.outputs[0].name)] = Tensor(flat, flat.shape)
            continue
        arrays = {str(v.name): edit.constant(v) for v in node.inputs if v is not None}
        constants = [arrays[name] for name in step.constants]
        inputs = [values[name] for name in step.inputs]
        kind = step.kind.removeprefix("int8_")
        values[step.outputs[0]] = run_step(
            Step(kind, step.attributes, constants, inputs),  # type: ignore[arg-type]
            command,
        )
    out = values[str(model.graph.outputs[0].name)]
    return out.data.reshape(out.dims)


def _output_scale(model: ir.Model) -> float:
    (last,) = edit.nodes_of(model, "DequantizeLinear")
    scale = edit.scalar(last.inputs[1])
    assert scale is not None
    return scale


@pytest.mark.parametrize(
    ("name", "signed", "per_channel"),
    [
        ("mobilenet_v1", False, True),
        ("mobilenet_v1", True, True),
        ("mobilenet_v2", False, False),
        ("resnet18", True, False),
        ("resnet18", False, True),
    ],
)
def test_a_foreign_model_becomes_int8_from_end_to_end(
    name: str, signed: bool, per_channel: bool
) -> None:
    content, x = _foreign(name, signed, per_channel), small.image(9)
    model, ctx = _lowered(content)
    left = {node.op_type for node in model.graph if node.domain != int8.DOMAIN}
    assert left == {"QuantizeLinear", "DequantizeLinear", "Flatten"}
    assert ctx.refusals == []
    want, scale = _meaning(content, x), _output_scale(model)
    body = session_of_model(model).run(None, {"image": x})[0]
    steps = _step_by_step(model, x)
    for got in (body, steps):  # a tie rounded otherwise early on moves bytes of later layers
        assert np.abs(got - want).max() <= 6 * LSB * scale
        assert np.abs(got - want).mean() <= 2 * scale
    assert np.abs(want).max() > 20 * scale


def _qdq(weight: Array, **changed: Any) -> bytes:
    """One convolution in QDQ form with a residual: y = q(clip(conv(x) , -1, 2)), z = q(y + x)."""
    arrays = {
        "s": np.array(0.05, np.float32),
        "z": np.array(120, np.uint8),
        "w": weight,
        "ws": np.full(len(weight), 0.01, np.float32),
        "wz": np.zeros(len(weight), np.int8),
        "low": np.array(-1.0, np.float32),
        "high": np.array(2.0, np.float32),
        **changed,
    }
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "s", "z"], ["xq"], "in"),
        node("DequantizeLinear", ["xq", "s", "z"], ["x"], "x"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "weight", axis=0),
        node("Conv", ["x", "wd"], ["c"], "conv", pads=[1] * 4),
        node("Clip", ["c", "low", "high"], ["r"], "clip"),
        node("QuantizeLinear", ["r", "s", "z"], ["yq"], "mid"),
        node("DequantizeLinear", ["yq", "s", "z"], ["y"], "y"),
        node("Add", ["y", "x"], ["t"], "sum"),
        node("QuantizeLinear", ["t", "s", "z"], ["tq"], "last"),
        node("DequantizeLinear", ["tq", "s", "z"], ["out"], "out"),
    ]
    shape = [1, weight.shape[1], 6, 5]
    return small.model(nodes, {"image": shape}, {"out": shape}, arrays).SerializeToString()


def _image() -> Array:
    return np.random.default_rng(3).uniform(-5, 5, (1, 6, 6, 5)).astype(np.float32)


def _weight() -> NDArray[np.int8]:
    return np.random.default_rng(2).integers(-127, 128, (6, 6, 3, 3)).astype(np.int8)


def test_a_clamp_and_a_sum_keep_their_meaning() -> None:
    content = _qdq(_weight())
    model, _ = _lowered(content)
    assert [n.op_type for n in model.graph if n.domain == int8.DOMAIN] == ["Conv", "Add"]
    _check(model, _meaning(content, _image()), _image(), 0.05)


@pytest.mark.parametrize(
    ("weight", "zeros"),
    [
        (np.full((6, 6, 3, 3), -128, np.int8), np.zeros(6, np.int8)),
        (_weight().astype(np.uint8), np.full(6, 128, np.uint8)),
        (_weight() // 2, np.arange(6, dtype=np.int8)),
        (_weight() // 2, np.array(-7, np.int8)),
    ],
    ids=["-128", "unsigned", "zero points", "one zero point"],
)
def test_any_weight_that_fits_signed_bytes_is_taken(weight: Array, zeros: Array) -> None:
    scale = np.full(zeros.shape, 0.01, np.float32)
    content = _qdq(weight, wz=zeros, ws=scale)
    model, _ = _lowered(content)
    assert "Conv" in [n.op_type for n in model.graph if n.domain == int8.DOMAIN]
    _check(model, _meaning(content, _image()), _image(), 0.05)


def _check(model: ir.Model, want: Array, x: Array, scale: float) -> None:
    """Bodies and kernels give the same up to a byte here and there."""
    for got in (session_of_model(model).run(None, {"image": x})[0], _step_by_step(model, x)):
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= LSB * scale
        assert np.mean(got != want) < 0.02


def _between_bytes(
    nodes: list[onnx.NodeProto], weights: dict[str, Array], last: str, out: list[int]
) -> bytes:
    """Nodes that read the numbers ``x`` of bytes; ``last`` becomes bytes again."""
    arrays = {"s": np.array(0.05, np.float32), "z": np.array(120, np.uint8), **weights}
    node = helper.make_node
    around = [
        node("QuantizeLinear", ["image", "s", "z"], ["xq"], "in"),
        node("DequantizeLinear", ["xq", "s", "z"], ["x"], "x"),
        *nodes,
        node("QuantizeLinear", [last, "s", "z"], ["lq"], "last"),
        node("DequantizeLinear", ["lq", "s", "z"], ["out"], "out"),
    ]
    return small.model(around, {"image": [1, 6, 6, 5]}, {"out": out}, arrays).SerializeToString()


def _conv_nodes(weight: Array, **attributes: Any) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """``c`` = a convolution of ``x``, and its bytes as ``d``."""
    arrays = {"w": weight, "ws": np.array(0.01, np.float32)}
    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["w", "ws"], ["wd"], "weight"),
        node("Conv", ["x", "wd"], ["c"], "conv", pads=[1] * 4, **attributes),
    ]
    return nodes, arrays


@pytest.mark.parametrize("group", [2, 3])
def test_groups_become_blocks_of_zeros(group: int) -> None:
    weight = _weight()[:, : 6 // group]
    nodes, arrays = _conv_nodes(weight, group=group)
    content = _between_bytes(nodes, arrays, "c", [1, 6, 6, 5])
    model, _ = _lowered(content)
    assert [n.op_type for n in model.graph if n.domain == int8.DOMAIN] == ["Conv"]
    _check(model, _meaning(content, _image()), _image(), 0.05)


def test_pooling_and_means_are_taken() -> None:
    nodes, arrays = _conv_nodes(_weight())
    node = helper.make_node
    nodes += [
        node("QuantizeLinear", ["c", "s", "z"], ["cq"], "cq"),
        node("DequantizeLinear", ["cq", "s", "z"], ["d"], "d"),
        node(
            "MaxPool", ["d"], ["p"], "pool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]
        ),
        node("QuantizeLinear", ["p", "s", "z"], ["pq"], "pq"),
        node("DequantizeLinear", ["pq", "s", "z"], ["e"], "e"),
        node("ReduceMean", ["e"], ["m"], "mean", axes=[-1, 2], keepdims=0),
    ]
    content = _between_bytes(nodes, arrays, "m", [1, 6])
    model, _ = _lowered(content)
    kinds = [n.op_type for n in model.graph if n.domain == int8.DOMAIN]
    assert kinds == ["Conv", "MaxPool", "Mean"]
    _check(model, _meaning(content, _image()), _image(), 0.05)


def test_numbers_of_another_shape_are_still_read() -> None:
    """The bytes of a convolution leave the model as numbers, flattened, without a further byte."""
    nodes, arrays = _conv_nodes(_weight())
    arrays |= {"s": np.array(0.05, np.float32), "z": np.array(120, np.uint8)}
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "s", "z"], ["xq"], "in"),
        node("DequantizeLinear", ["xq", "s", "z"], ["x"], "x"),
        *nodes,
        node("QuantizeLinear", ["c", "s", "z"], ["cq"], "cq"),
        node("DequantizeLinear", ["cq", "s", "z"], ["d"], "d"),
        node("Flatten", ["d"], ["out"], "flat"),
    ]
    content = small.model(
        nodes, {"image": [1, 6, 6, 5]}, {"out": [1, 180]}, arrays
    ).SerializeToString()
    model, _ = _lowered(content)
    run([DeadCode()], model, Context())
    assert [n.op_type for n in model.graph if n.op_type in ("Conv", "Flatten")] == [
        "Conv",
        "Flatten",
    ]
    want = _meaning(content, _image())
    _check(model, want, _image(), 0.05)


@pytest.mark.parametrize(
    ("weight", "changed", "reason"),
    [
        (_weight(), {"wz": np.full(6, 3, np.int8)}, "fit signed bytes"),
        (_weight(), {"ws": np.full(6, 1e9, np.float32)}, "exceed 32 bits"),
    ],
)
def test_what_the_kernels_do_not_take_is_left_and_said(
    weight: Array, changed: dict[str, Array], reason: str
) -> None:
    content = _qdq(weight, **changed)
    model, ctx = _lowered(content)
    assert not any(node.domain == int8.DOMAIN for node in model.graph)
    assert any(reason in refusal.reason for refusal in ctx.refusals)
    np.testing.assert_array_equal(
        session_of_model(model).run(None, {"image": _image()})[0].shape, (1, 6, 6, 5)
    )


def test_a_layer_that_is_left_stands_between_bytes() -> None:
    """Its neighbours are eight-bit all the same, with steps from and to numbers around it."""
    first, arrays = _conv_nodes(_weight())
    node = helper.make_node
    arrays |= {"v": _weight(), "vz": np.full((), 3, np.int8)}
    nodes = [
        *first,
        node("QuantizeLinear", ["c", "s", "z"], ["cq"], "cq"),
        node("DequantizeLinear", ["cq", "s", "z"], ["d"], "d"),
        node("DequantizeLinear", ["v", "ws", "vz"], ["vd"], "odd"),
        node("Conv", ["d", "vd"], ["f"], "left", pads=[1] * 4),
        node("QuantizeLinear", ["f", "s", "z"], ["fq"], "fq"),
        node("DequantizeLinear", ["fq", "s", "z"], ["g"], "g"),
        node("Conv", ["g", "wd"], ["h"], "again", pads=[1] * 4),
    ]
    content = _between_bytes(nodes, arrays, "h", [1, 6, 6, 5])
    model, ctx = _lowered(content)
    assert [n.name for n in model.graph if n.domain == int8.DOMAIN] == ["conv", "again"]
    assert [r.node for r in ctx.refusals] == ["fq"]
    got = session_of_model(model).run(None, {"image": _image()})[0]
    assert np.abs(got - _meaning(content, _image())).max() <= 3 * LSB * 0.05
