"""``compile(..., quantize="int8")`` from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.errors import BackendError, CalibrationError, PlanError
from sparsecc.inspection import inspect
from sparsecc.ops import int8
from tests import small

Array = NDArray[Any]


def test_a_float_model_becomes_eight_bit_and_smaller() -> None:
    proto = small.mobilenet("4x4:0.5")
    images = np.concatenate([small.image(seed) for seed in range(8)])
    made = sparsecc.compile(proto, calibration={"image": images}, quantize="int8", verify=True)
    want = onnxruntime.InferenceSession(proto.SerializeToString()).run(
        None, {"image": small.image(99)}
    )[0]
    got = made(image=small.image(99))
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.9
    assert len(np.unique(got)) <= 256 < got.size
    model = Path(made.path, "model.onnx")
    assert model.stat().st_size < 0.4 * proto.ByteSize()
    ops = {node.op_type for node in onnx.load(model).graph.node if node.domain == int8.DOMAIN}
    regions = any(node.op_type.startswith("Region") for node in onnx.load(model).graph.node)
    assert regions or ops == {"Conv", "Depthwise", "Mean"}


def test_the_report_says_what_is_eight_bit_and_what_is_not() -> None:
    proto = small.mobilenet("4x4:0.5")
    made = sparsecc.compile(proto, calibration={"image": small.image(0, 8)}, quantize="int8")
    rows = {row.name: row for row in made.report.rows}
    assert {row.kernel for row in rows.values()} == {"int8-conv", "int8-depthwise"}
    assert rows["stem"].pattern == "dense"
    assert rows["block1.depthwise"].kernel == "int8-depthwise"
    pruned = rows["block5.pointwise"]
    assert pruned.pattern == "4x4"
    assert pruned.density == pytest.approx(0.5, abs=0.02)
    assert "50%" in pruned.why
    assert 0 < pruned.est_ms < pruned.dense_ms
    assert made.plan.layers
    again = inspect(made.path)
    assert [row.kernel for row in again] == [row.kernel for row in made.report.rows]


def test_pruning_and_eight_bits_go_together() -> None:
    proto = small.mobilenet()
    data = {"image": small.image(0, 8)}
    made = sparsecc.compile(proto, sparsity="4x4:0.5", calibration=data, quantize="int8")
    pruned = [row for row in made.report.rows if row.pattern == "4x4"]
    assert len(pruned) > 8
    assert all(row.density < 0.55 for row in pruned)
    assert made.manifest.numerics["max_rel_error"] < 0.02


def test_int8_without_data_is_told_the_way_out() -> None:
    with pytest.raises(CalibrationError, match="calibration") as refused:
        sparsecc.compile(small.mobilenet(), quantize="int8")
    assert refused.value.fix


def test_another_quantization_is_told_what_there_is() -> None:
    with pytest.raises(PlanError, match="int4") as refused:
        sparsecc.compile(small.mobilenet(), quantize="int4")
    assert "int8" in (refused.value.fix or "")


DAMAGE: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "not ascending": ("block5.pointwise.index", lambda a: a[::-1].copy()),
    "4x4 blocks": ("block5.pointwise.grid", lambda a: a + 1),
    "bias is not": ("block5.depthwise.bias", lambda a: a[1:]),
    "overflow": ("block5.depthwise.bias", lambda a: np.full_like(a, 2**31 - 1)),
    "multiplier": ("block5.depthwise.multiplier", lambda a: a * np.float32(np.nan)),
    "damaged": ("Region0.program", lambda a: a[:-1]),
}


@pytest.fixture(scope="module")
def eight_bit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with one region, for any batch."""
    data, proto = {"image": small.image(0, 4)}, small.mobilenet("4x4:0.5")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    made = sparsecc.compile(proto, calibration=data, quantize="int8")
    return made.save(tmp_path_factory.mktemp("int8") / "out")


@pytest.mark.parametrize("message", DAMAGE)
def test_altered_weights_are_a_status_that_names_the_layer(message: str, eight_bit: Path) -> None:
    name, alter = DAMAGE[message]
    proto = onnx.load(eight_bit / "model.onnx")
    held = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    held.CopyFrom(numpy_helper.from_array(alter(numpy_helper.to_array(held)), name))
    library = next(eight_bit.glob("*.so"))
    with pytest.raises(BackendError, match=message) as refused:
        open_session(proto.SerializeToString(), library=library)
    layer = name.rpartition(".")[0]
    assert (layer if layer.startswith("block") else "region0") in str(refused.value)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_gives_what_stock_onnx_runtime_gives(batch: int, eight_bit: Path) -> None:
    feed = {"image": small.image(5, batch)}
    model, library = eight_bit / "model.onnx", next(eight_bit.glob("*.so"))
    (ours,) = open_session(model, library=library).run(None, feed)
    (body,) = open_session(model).run(None, feed)
    assert ours.shape == body.shape == (batch, ours.shape[1])
    assert np.mean(ours != body) < 0.05
