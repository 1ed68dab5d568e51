from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.passes.weights.scores import damped
from sparsecc.quality.moments import MomentSum, Window, patches

examples = settings(deadline=None, max_examples=30, derandomize=True)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Window, tuple[int, int, int, int], int]:
    groups = draw(st.integers(1, 3))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    auto_pad = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    widest = 1 if auto_pad.startswith("SAME") else 2  # ONNX Runtime has no SAME with dilation
    dilations = (draw(st.integers(1, widest)), draw(st.integers(1, widest)))
    window = Window(
        kernel=kernel,
        strides=(draw(st.integers(1, 3)), draw(st.integers(1, 2))),
        pads=tuple(draw(st.integers(0, 2)) for _ in range(4)),  # type: ignore[arg-type]
        dilations=dilations,
        groups=groups,
        auto_pad=auto_pad,
    )
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    shape = (
        draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 3)),
        spans[0] + draw(st.integers(0, 6)),
        spans[1] + draw(st.integers(0, 6)),
    )
    return window, shape, draw(st.integers(1, 4))


def run_conv(x: np.ndarray, weight: np.ndarray, window: Window) -> np.ndarray:
    attributes: dict[str, object] = {
        "strides": window.strides, "dilations": window.dilations, "group": window.groups
    }  # fmt: skip
    if window.auto_pad == "NOTSET":
        attributes["pads"] = window.pads
    else:
        attributes["auto_pad"] = window.auto_pad
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [info("x", onnx.TensorProto.FLOAT, x.shape)],
        [info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


@examples
@given(convolutions())
def test_patches_times_matrix_is_the_convolution(
    case: tuple[Window, tuple[int, int, int, int], int],
) -> None:
    window, shape, rows = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    weight = rng.standard_normal(
        (rows * window.groups, shape[1] // window.groups, *window.kernel), dtype=np.float32
    )
    taken = patches(x, window, 10**9, rng)
    matrix = weight.transpose(0, 2, 3, 1).reshape(window.groups, rows, -1)
    found = np.einsum("gpk,grk->grp", taken, matrix)
    expected = run_conv(x, weight, window)
    expected = expected.reshape(shape[0], window.groups, rows, -1).transpose(1, 2, 0, 3)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_moments_are_those_of_numpy(dtype: type, atol: float) -> None:
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((n, 3, 8)).astype(dtype) for n in (2, 5, 1)]
    total = MomentSum("layer", None, len(batches))
    for batch in batches:
        total.add(batch)
    found = total.finish()
    rows = np.concatenate(batches).reshape(-1, 8).astype(np.float64)
    assert found is not None
    assert found.rows == len(rows)
    np.testing.assert_allclose(found.h[0], rows.T @ rows / len(rows), atol=atol)
    np.testing.assert_allclose(found.mean[0], rows.mean(axis=0), atol=atol)
    np.testing.assert_allclose(found.centred[0], np.cov(rows.T, bias=True), atol=atol)


@given(rows=st.integers(1, 5), varying=st.integers(0, 8), seed=st.integers(0, 9))
@examples
def test_inputs_that_do_not_vary_leave_no_rounding(rows: int, varying: int, seed: int) -> None:
    """H itself where nothing varies; else a covariance whose damped form is positive definite."""
    dice = np.random.default_rng(seed)
    x = np.repeat(dice.standard_normal((1, 8)).astype(np.float32), rows, 0)
    x[:, :varying] = dice.standard_normal((rows, varying))
    total = MomentSum("layer", None, 1)
    total.add(x)
    found = total.finish()
    assert found is not None
    if rows == 1 or varying == 0:
        np.testing.assert_array_equal(found.centred, found.h)
    else:
        np.testing.assert_array_equal(found.centred[0, varying:], 0)
        np.testing.assert_allclose(found.centred[0], np.cov(x.T, bias=True), atol=1e-5)
    assert np.linalg.eigvalsh(damped(found.centred[0])[0]).min() > 0


def test_no_rows_no_moments() -> None:
    total = MomentSum("layer", None, 1)
    assert total.finish() is None
    total.add(np.zeros((0, 4), np.float32))
    assert total.finish() is None


def test_sampling_is_bounded_and_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.quality.moments.FLOP_BUDGET", 0)
    batch = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    found = []
    for _ in range(2):
        total = MomentSum("layer", None, 2)
        total.add(batch)
        total.add(batch)
        moments = total.finish()
        assert moments is not None
        assert moments.rows == 32
        found.append(moments.h)
    assert np.array_equal(*found)
    window = Window((2, 2), (1, 1), (0, 0, 0, 0), (1, 1), 2, "NOTSET")
    images = MomentSum("conv", window, 1)
    images.add(np.ones((4, 4, 9, 9), np.float32))
    moments = images.finish()
    assert moments is not None
    assert moments.h.shape == (2, 8, 8)
    assert moments.rows == 32
