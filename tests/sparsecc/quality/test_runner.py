from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc.errors import CalibrationError
from sparsecc.quality import segments
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.moments import Window
from sparsecc.quality.runner import Observed, Tap, stream

RNG = np.random.default_rng(0)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32) / 4, name)


def build(
    nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], *inputs: onnx.ValueInfoProto
) -> ir.Model:
    output = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    graph = helper.make_graph(nodes, "g", list(inputs), [output], initializers)
    opset = [helper.make_opsetid("", 18)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=9))


def node(model: ir.Model, name: str) -> ir.Node:
    return next(each for each in model.graph if each.name == name)


def tap(model: ir.Model, name: str) -> Tap:
    found = node(model, name)
    value, w = found.inputs[0], found.inputs[1]
    assert value is not None
    assert w is not None
    kernel = w.const_value.numpy().shape[2:] if found.op_type == "Conv" else None  # type: ignore[union-attr]
    return Tap(name, value, found, Window.of(found, kernel) if kernel else None)  # type: ignore[arg-type]


def mlp() -> ir.Model:
    """Two products with a residual around them, and a second reader of the first input."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], name="a"),
        helper.make_node("Relu", ["xa"], ["h"], name="relu"),
        helper.make_node("MatMul", ["h", "b"], ["hb"], name="b"),
        helper.make_node("Add", ["hb", "x"], ["r"], name="add"),
        helper.make_node("Transpose", ["ct"], ["c"], name="ct", perm=[1, 0]),
        helper.make_node("MatMul", ["r", "c"], ["y"], name="c"),
    ]
    weights = [weight("a", 8, 16), weight("b", 16, 8), weight("ct", 4, 8)]
    return build(nodes, weights, helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8]))


def moment(rows: NDArray[Any]) -> NDArray[np.float64]:
    rows = rows.astype(np.float64)
    return rows.T @ rows / len(rows)


def collect(model: ir.Model, names: list[str], feeds: Any, **options: Any) -> dict[str, Observed]:
    calibration = load_calibration(feeds, model)
    taps = [tap(model, name) for name in names]
    return {seen.tap.name: seen for seen in stream(model, taps, calibration, **options)}


def mlp_inputs(model: ir.Model, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    a, b = (node(model, name).inputs[1].const_value.numpy() for name in "ab")  # type: ignore[union-attr]
    hidden = np.maximum(x @ a, 0)
    return {"a": x, "b": hidden, "c": hidden @ b + x}


X = RNG.standard_normal((50, 8)).astype(np.float32)


@pytest.mark.parametrize("memory", [1 << 30, 3000, 0])
def test_moments_equal_numpy_in_memory_and_on_disk(memory: int) -> None:
    model = mlp()
    calibration = load_calibration({"x": X}, model)
    train = np.concatenate([feed["x"] for feed in calibration.train])
    held = np.concatenate([feed["x"] for feed in calibration.held_out])
    found = collect(model, ["c", "a", "b"], {"x": X}, memory_bytes=memory)
    assert list(found) == ["a", "b", "c"]
    for name, seen in found.items():
        assert seen.held_out is not None
        for found_moments, x in ((seen.train, train), (seen.held_out, held)):
            expected = moment(mlp_inputs(model, x)[name])
            np.testing.assert_allclose(found_moments.h[0], expected, rtol=1e-4)


def test_later_layers_see_what_changed_layers_produce() -> None:
    model = mlp()
    calibration = load_calibration({"x": X}, model)
    train = np.concatenate([feed["x"] for feed in calibration.train])
    for seen in stream(model, [tap(model, name) for name in "abc"], calibration):
        expected = moment(mlp_inputs(model, train)[seen.tap.name])
        np.testing.assert_allclose(seen.train.h[0], expected, rtol=1e-4)
        value = node(model, seen.tap.name).inputs[1]
        if value is not None and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(0.5))


def test_the_dense_models_inputs_are_observed_beside() -> None:
    model = mlp()
    dense = model.clone()
    calibration = load_calibration({"x": X}, model)
    batches = {"train": calibration.train, "held_out": calibration.held_out}
    for seen in stream(model, [tap(model, name) for name in "cab"], calibration, dense=dense):
        for what, feeds in batches.items():
            x = np.concatenate([feed["x"] for feed in feeds])
            here, there = (mlp_inputs(each, x)[seen.tap.name] for each in (model, dense))
            found = getattr(seen, what)
            np.testing.assert_allclose(found.h[0], moment(here), rtol=1e-4)
            np.testing.assert_allclose(found.goal.second[0], moment(there), rtol=1e-4)
            cross = there.astype(np.float64).T @ here / len(x)
            np.testing.assert_allclose(found.goal.cross[0], cross, rtol=1e-4)
            np.testing.assert_allclose(found.goal.mean[0], there.mean(axis=0), rtol=1e-4)
        value = node(model, seen.tap.name).inputs[1]
        if value is not None and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(0.5))


def test_convolutions_see_their_patches_per_group() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["h", "v"], ["y"], name="second", group=2, strides=[2, 2]),
    ]
    weights = [weight("w", 4, 3, 3, 3), weight("v", 4, 2, 3, 3)]
    shape = ["n", 3, 9, 9]
    model = build(nodes, weights, helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    x = RNG.standard_normal((10, 3, 9, 9)).astype(np.float32)
    found = collect(model, ["first", "second"], {"x": x})
    assert found["first"].train.h.shape == (1, 27, 27)
    assert found["second"].train.h.shape == (2, 18, 18)
    assert found["first"].train.rows == 8 * 81
    assert found["second"].train.rows == 8 * 16
    centre = found["first"].train.h[0][12:15, 12:15]
    train = np.concatenate([f["x"] for f in load_calibration({"x": x}, model).train])
    pixels = train.transpose(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(centre, moment(pixels), rtol=1e-4)


def test_integer_inputs_dynamic_lengths_and_shape_arithmetic() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("Shape", ["ids"], ["s"], name="shape"),
        helper.make_node("MatMul", ["e", "a"], ["ea"], name="a"),
        helper.make_node("Concat", ["s", "last"], ["t"], name="concat", axis=0),
        helper.make_node("Reshape", ["ea", "t"], ["r"], name="reshape"),
        helper.make_node("MatMul", ["r", "b"], ["y"], name="b"),
    ]
    weights = [weight("table", 20, 8), weight("a", 8, 8), weight("b", 8, 8)]
    weights.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])
    model = build(nodes, weights, ids)
    feeds = [{"ids": RNG.integers(0, 20, (2, length))} for length in (3, 4, 5, 6, 7)]
    found = collect(model, ["a", "b"], feeds)
    assert found["b"].train.rows == 2 * (3 + 4 + 5 + 6)
    assert found["b"].held_out is not None
    assert found["b"].held_out.rows == 14


def test_bodies_of_control_flow_keep_what_they_capture() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["h", "x"], ["yes"])],
        "then",
        [],
        [helper.make_tensor_value_info("yes", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["no"])],
        "else",
        [],
        [helper.make_tensor_value_info("no", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="a"),
        helper.make_node("If", ["flag"], ["r"], name="if", then_branch=inner, else_branch=other),
        helper.make_node("MatMul", ["r", "b"], ["y"], name="b"),
    ]
    weights = [weight("a", 8, 8), weight("b", 8, 8)]
    weights.append(numpy_helper.from_array(np.array(True), "flag"))
    model = build(nodes, weights, helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8]))
    found = collect(model, ["a", "b"], [{"x": X}])
    a = node(model, "a").inputs[1].const_value.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(found["b"].train.h[0], moment(X @ a + X), rtol=1e-4)
    assert found["b"].held_out is None


def test_sequences_between_layers_are_recomputed() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x", "four"], ["parts"], name="split", axis=1),
        helper.make_node("SequenceAt", ["parts", "zero"], ["p"], name="at"),
        helper.make_node("MatMul", ["p", "a"], ["h"], name="a"),
        helper.make_node("SequenceAt", ["parts", "one"], ["q"], name="at1"),
        helper.make_node("Add", ["h", "q"], ["r"], name="add"),
        helper.make_node("MatMul", ["r", "b"], ["y"], name="b"),
    ]
    weights = [weight("a", 4, 4), weight("b", 4, 4)]
    for name, value in {"zero": 0, "one": 1, "four": 4}.items():
        weights.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model = build(nodes, weights, helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8]))
    found = collect(model, ["a", "b"], [{"x": X}])
    a = node(model, "a").inputs[1].const_value.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(found["a"].train.h[0], moment(X[:, :4]), rtol=1e-4)
    np.testing.assert_allclose(found["b"].train.h[0], moment(X[:, :4] @ a + X[:, 4:]), rtol=1e-4)


def test_weights_beyond_the_inline_limit_go_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = segments.open_segment

    def beside(*args: Any) -> Any:
        return original(*args, inline_bytes=0)

    model = mlp()
    expected = collect(model, ["b", "c"], {"x": X})
    monkeypatch.setattr("sparsecc.quality.runner.open_segment", beside)
    monkeypatch.setattr(segments, "_SMALL_TENSOR", 0)
    for name, seen in collect(model, ["b", "c"], {"x": X}).items():
        assert np.array_equal(seen.train.h, expected[name].train.h)


def test_progress_counts_every_batch_of_every_tap() -> None:
    steps: list[tuple[str, int, int]] = []
    collect(mlp(), ["a", "b"], {"x": X}, on_progress=lambda *step: steps.append(step))
    assert [done for _, done, _ in steps] == list(range(10))
    assert {total for *_, total in steps} == {10}
    assert steps[0][0] == "inputs of a"


def test_a_model_that_fails_or_overflows_on_the_data_names_the_layer() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"], name="reshape"),
        helper.make_node("MatMul", ["r", "a"], ["y"], name="a"),
    ]
    shape = numpy_helper.from_array(np.array([3, -1, 8], np.int64), "s")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    model = build(nodes, [weight("a", 8, 8), shape], x)
    with pytest.raises(CalibrationError, match="does not run on calibration batch 0") as caught:
        collect(model, ["a"], [{"x": X}])
    assert caught.value.node == "a"
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("MatMul", ["e", "a"], ["y"], name="a"),
    ]
    model = build(nodes, [weight("a", 8, 8)], x)
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        collect(model, ["a"], [{"x": 1000 * np.abs(X)}])
