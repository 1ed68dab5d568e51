from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.quality.calibration import (
    BATCH,
    HELD_OUT_SAMPLES,
    LONG,
    TRAIN_SAMPLES,
    count_samples,
    load_calibration,
)


def model_with(**inputs: tuple[ir.DataType, list[int | str] | None]) -> ir.Model:
    values = [
        ir.Value(
            name=name, type=ir.TensorType(dtype), shape=None if dims is None else ir.Shape(dims)
        )
        for name, (dtype, dims) in inputs.items()
    ]
    return ir.Model(ir.Graph(values, [], nodes=[], opset_imports={"": 18}), ir_version=10)


IMAGE = model_with(x=(ir.DataType.FLOAT, ["n", 3, 8, 8]))
TOKENS = model_with(ids=(ir.DataType.INT64, ["n", "t"]), mask=(ir.DataType.INT64, ["n", "t"]))


def images(count: int) -> NDArray[np.float32]:
    return np.arange(count * 192, dtype=np.float32).reshape(count, 3, 8, 8)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 99, 100, 1000])
def test_every_sample_is_used_once_and_a_fifth_is_held_out(count: int) -> None:
    found = load_calibration({"x": images(count)}, IMAGE)
    firsts = np.concatenate([feed["x"][:, 0, 0, 0] for feed in found.batches])
    assert sorted(firsts) == [192 * i for i in range(count)]
    held = sum(len(feed["x"]) for feed in found.held_out)
    if count >= 5:
        assert 0.1 <= held / count <= 0.25
    assert bool(found.held_out) == (count > 1)


def test_the_split_is_the_same_every_time() -> None:
    first, second = (load_calibration({"x": images(50)}, IMAGE) for _ in range(2))
    for a, b in zip(first.batches, second.batches, strict=True):
        assert np.array_equal(a["x"], b["x"])


def test_a_fixed_batch_is_respected_and_the_rest_dropped() -> None:
    fixed = model_with(x=(ir.DataType.FLOAT, [4, 3, 8, 8]))
    found = load_calibration({"x": images(11)}, fixed)
    assert [len(feed["x"]) for feed in found.batches] == [4, 4]
    with pytest.raises(CalibrationError, match="batches of 4"):
        load_calibration({"x": images(3)}, fixed)


def test_batches_come_as_they_are_given() -> None:
    lengths = [3, 5, 7, 9, 11, 13]
    feeds = [{"ids": np.ones((2, n), np.int64), "mask": np.ones((2, n), np.int64)} for n in lengths]
    found = load_calibration(iter(feeds), TOKENS)
    assert [feed["ids"].shape[1] for feed in found.train] == [3, 5, 7, 9, 13]
    assert [feed["ids"].shape[1] for feed in found.held_out] == [11]


def test_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=images(10))
    assert len(load_calibration(path, IMAGE).batches) == 5
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CalibrationError, match=r"data\.npz"):
        load_calibration(path, IMAGE)
    with pytest.raises(CalibrationError, match=r"none\.npz"):
        load_calibration(tmp_path / "none.npz", IMAGE)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(CalibrationError, match=r"data\.npz"):
        load_calibration(path, IMAGE)
    bare = tmp_path / "bare.npz"
    with bare.open("wb") as file:
        np.save(file, images(2))
    with pytest.raises(CalibrationError, match="bare array"):
        load_calibration(bare, IMAGE)


def test_an_input_of_rank_zero_goes_to_every_batch() -> None:
    model = model_with(x=(ir.DataType.FLOAT, ["n", 2]), t=(ir.DataType.FLOAT, []))
    found = load_calibration({"x": np.ones((9, 2), np.float32), "t": np.float32(3)}, model)
    assert [float(feed["t"]) for feed in found.batches] == [3.0] * len(found.batches)


NAN = images(2)
NAN[0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "lacks the input 'x'"),
        ({"y": images(2)}, "lacks the input 'x'"),
        ({"x": images(2), "y": images(2)}, "'y', which is no input"),
        ({"x": images(2).astype(np.float64)}, "dtype float64, the model wants float32"),
        ({"x": images(2)[:, :1]}, "shape [2, 1, 8, 8], the model wants [samples, 3, 8, 8]"),
        ({"x": images(1)[0]}, "shape [3, 8, 8]"),
        ({"x": images(0)}, "is empty"),
        ({"x": NAN}, "NaN"),
        ([], "empty"),
        ([{"x": images(1)}, 7], "is a int, not a mapping"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(source: object, message: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        load_calibration(source, IMAGE)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert caught.value.fix


def test_inputs_must_agree_on_the_number_of_samples() -> None:
    feed = {"ids": np.ones((4, 3), np.int64), "mask": np.ones((5, 3), np.int64)}
    with pytest.raises(CalibrationError, match="disagree"):
        load_calibration(feed, TOKENS)
    clash = model_with(x=(ir.DataType.FLOAT, [1, 2]), h=(ir.DataType.FLOAT, [2, 2]))
    same = {"x": np.ones((2, 2), np.float32), "h": np.ones((2, 2), np.float32)}
    with pytest.raises(CalibrationError, match="one by one"):
        load_calibration(same, clash)


def test_statistics_of_large_models_come_from_fewer_samples() -> None:
    data = load_calibration({"x": images(2000)}, IMAGE, held_out_every=2)
    assert data.for_statistics(1e6) == data
    few = data.for_statistics(1e9)
    assert sum(map(count_samples, few.train)) == TRAIN_SAMPLES
    assert sum(map(count_samples, few.held_out)) == HELD_OUT_SAMPLES
    assert few.train == data.train[: len(few.train)]
    middling = data.for_statistics(LONG / 500)
    assert 500 <= sum(map(count_samples, middling.train)) < 500 + BATCH
    one = load_calibration({"x": images(1)}, IMAGE)
    assert one.for_statistics(1e12) == one
