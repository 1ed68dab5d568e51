"""QDQ models as eight-bit ops: their bodies in a stock runtime, and the kernels' steps."""

from __future__ import annotations

import functools
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

from sparsecc import targets
from sparsecc.backends.kernels.step_harness import Step, Tensor, build_steps, run_step
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.ops import int8
from sparsecc.passes import edit, pipeline
from sparsecc.passes.base import Context, run
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
def _foreign(signed: bool) -> bytes:
    """A model that ONNX Runtime's own tool quantized."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "qdq.onnx")
        kind = QuantType.QInt8 if signed else QuantType.QUInt8
        quantize_static(
            small.mobilenet("4x4:0.5"), path, _Samples(), per_channel=True, activation_type=kind
        )
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


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_foreign_model_becomes_int8_from_end_to_end(signed: bool) -> None:
    content, x = _foreign(signed), small.image(9)
    model, ctx = _lowered(content)
    left = {node.op_type for node in model.graph if node.domain != int8.DOMAIN}
    assert left == {"QuantizeLinear", "DequantizeLinear", "Flatten"}
    assert ctx.refusals == []
    want, scale = _meaning(content, x), _output_scale(model)
    body = session_of_model(model).run(None, {"image": x})[0]
    steps = _step_by_step(model, x)
    # A tie rounded otherwise early on moves a few bytes by one.
    assert np.abs(body - want).max() <= 3 * LSB * scale
    assert np.abs(steps - want).max() <= 3 * LSB * scale
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
    want = _meaning(content, _image())
    body = session_of_model(model).run(None, {"image": _image()})[0]
    for got in (body, _step_by_step(model, _image())):
        assert np.abs(got - want).max() <= LSB * 0.05
        assert np.mean(got != want) < 0.02


@pytest.mark.parametrize(
    ("weight", "changed", "reason"),
    [
        (np.full((6, 6, 3, 3), -128, np.int8), {}, "-128"),
        (_weight(), {"wz": np.full(6, 3, np.int8)}, "not symmetric"),
        (_weight().astype(np.uint8), {"wz": np.full(6, 128, np.uint8)}, "signed bytes"),
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
