from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from benchmarks import build, spec
from sparsecc.errors import PlanError
from tests.benchmarks.shrunk import shrunk

SMALL = spec.parse(
    """
    input image 1x3x16x16
    conv stem 16 k=3 s=2 act=relu6
    conv depthwise dw k=3 act=relu
    conv wide 32 k=3 act=silu
    conv narrow 16 from=wide
    add sum from=narrow,depthwise
    mean pool
    linear head 12
    """
)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def density(weight: np.ndarray) -> float:
    return np.count_nonzero(weight) / weight.size


def test_the_same_arguments_give_the_same_bytes() -> None:
    first, again, other = (
        build.build(SMALL, "4x1:0.5", seed=seed).SerializeToString() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_prunable_layers_have_the_zeros_and_the_others_none() -> None:
    found = weights(build.build(SMALL, "4x1:0.75"))
    assert density(found["stem.weight"]) == density(found["depthwise.weight"]) == 1
    for name in ("wide.weight", "narrow.weight", "head.weight"):
        assert density(found[name]) == pytest.approx(0.25, abs=0.03), name


@pytest.mark.parametrize("block", [4, 16])
def test_consecutive_output_channels_share_a_zero(block: int) -> None:
    weight = weights(build.build(SMALL, f"{block}x1:0.8"))["wide.weight"]
    zero = (weight == 0).reshape(32 // block, block, -1)
    assert (zero.all(1) == zero.any(1)).all()
    assert zero.mean() == pytest.approx(0.8, abs=0.01)


def test_unstructured_zeros_share_nothing() -> None:
    zero = weights(build.build(SMALL, "unstructured:0.5"))["wide.weight"] == 0
    assert (zero.reshape(8, 4, -1).all(1) != zero.reshape(8, 4, -1).any(1)).any()


@pytest.mark.parametrize("pattern", ["dense", "4x1:0.8", "unstructured:0.9"])
@pytest.mark.parametrize("name", spec.names())
def test_outputs_are_finite_of_order_one_and_depend_on_the_input(name: str, pattern: str) -> None:
    layers = shrunk(name)
    session = ort.InferenceSession(build.build(layers, pattern).SerializeToString())
    first, second = (session.run(None, build.inputs(layers, seed))[0] for seed in (1, 2))
    assert np.isfinite(first).all()
    assert 0.02 < first.std() < 20
    assert np.abs(first - second).mean() > 0.01 * first.std()


@pytest.mark.parametrize("name", ["minilm_l6", "mobilenet_v3_large"])
def test_an_older_opset_computes_the_same(name: str) -> None:
    layers = shrunk(name)
    feeds = build.inputs(layers)
    new, old = (
        ort.InferenceSession(build.build(layers, opset=opset).SerializeToString()).run(None, feeds)
        for opset in (17, 13)
    )
    np.testing.assert_allclose(old[0], new[0], rtol=0, atol=1e-4 * np.abs(new[0]).max())


def test_a_layer_without_normalisation_keeps_its_weights() -> None:
    text = "input x 1x8x4x4\nconv a 64 k=3 norm=0 act=hardsigmoid\npool p\nmul c from=a,p"
    found = weights(build.build(spec.parse(text)))
    assert found["a.weight"].std() == pytest.approx((2 / 72) ** 0.5, rel=0.1)
    assert found["a.bias"].std() == pytest.approx(0.1, rel=0.4)


def test_opset_11_runs() -> None:
    model = build.build(SMALL, opset=11)
    assert model.opset_import[0].version == 11
    ort.InferenceSession(model.SerializeToString()).run(None, build.inputs(SMALL))


def test_write_builds_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "load", lambda name: SMALL)
    path = build.write("small", "4x1:0.5", tmp_path)
    before = path.stat().st_mtime_ns
    assert build.write("small", "4x1:0.5", tmp_path).stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(PlanError):
        build.build(SMALL, "4x1")
    with pytest.raises(ValueError, match="unknown layer 'convolve'"):
        build.build(spec.parse("input x 1x3x8x8\nconvolve a 8"))
