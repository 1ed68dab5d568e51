"""What a place on disk is taken for, and folders of numpy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from scipy.io import wavfile

from sparsecc.errors import CalibrationError
from sparsecc.progress import silent
from sparsecc.quality import samples
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.samples import base
from sparsecc.quality.samples.base import Batches


def model_of(**inputs: list[int | str]) -> ir.Model:
    values = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
        for name, dims in inputs.items()
    ]
    return ir.Model(ir.Graph(values, [], nodes=[], opset_imports={"": 18}), ir_version=10)


ONE = model_of(x=["n", 3])
TWO = model_of(x=["n", 3], y=["n", "t"])


def rows(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + 3 * count, dtype=np.float32).reshape(count, 3)


def test_an_npy_file_is_the_only_input(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, rows(10))
    found = load_calibration(path, ONE)
    assert np.array_equal(np.concatenate([feed["x"] for feed in found.batches])[:2], rows(2))
    with pytest.raises(CalibrationError, match="the model has the inputs x, y"):
        load_calibration(path, TWO)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(CalibrationError, match=r"x\.npy is not a readable"):
        load_calibration(path, ONE)


def test_a_folder_of_arrays_holds_samples_or_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(1)[0])
    np.savez(tmp_path / "b.npz", x=rows(4, 3))
    drawn = samples.open_source(tmp_path).read(ONE)
    assert isinstance(drawn, dict)
    assert np.array_equal(drawn["x"], rows(5))
    assert len(samples.arrays(tmp_path, limit=1).read(ONE)["x"]) == 1  # type: ignore[index]


def test_arrays_of_several_lengths_are_batches(tmp_path: Path) -> None:
    for number in range(6):
        y = np.ones((2, 3 + number), np.float32)
        np.savez(tmp_path / f"{number}.npz", x=rows(2), y=y)
    drawn = samples.arrays(tmp_path).read(TWO)
    assert isinstance(drawn, Batches)
    assert len(drawn.order) == 12
    found = load_calibration(tmp_path, TWO, labels=np.arange(12))
    assert [feed["y"].shape for feed in found.held_out] == [(2, 7)]
    assert found.labels is not None
    assert found.labels[0].tolist() == [8, 9]


def test_a_file_that_lacks_an_input_or_is_damaged_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(2), y=rows(2))
    np.savez(tmp_path / "b.npz", x=rows(2))
    with pytest.raises(CalibrationError, match=r"b\.npz lacks the input 'y'"):
        samples.arrays(tmp_path).read(TWO)
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CalibrationError, match=r"b\.npz is not a readable"):
        samples.arrays(tmp_path).read(TWO)
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object), y=rows(2))
    with pytest.raises(CalibrationError, match=r"b\.npz is not a readable"):
        samples.arrays(tmp_path).read(TWO)


def test_a_folder_is_what_its_files_are(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no calibration data"):
        samples.open_source(tmp_path)
    wavfile.write(tmp_path / "a.wav", 16_000, np.zeros(10, np.float32))
    assert samples.read_source(tmp_path, model_of(x=["n", "t"]), silent)["x"].shape == (1, 10)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(CalibrationError, match="pictures and sounds"):
        samples.open_source(tmp_path)
    (tmp_path / "a.wav").unlink()
    pictures = samples.read_source(tmp_path, model_of(x=["n", 3, 8, 8]), silent)
    assert pictures["x"].shape == (1, 3, 8, 8)


def test_what_does_not_go_with_the_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(2))
    for place in (tmp_path, tmp_path / "a.npz", "generated"):
        for given in ({"tokenizer": "t.json"}, {"preprocess": "p.json"}):
            with pytest.raises(CalibrationError, match=r"json: there is a"):
                samples.open_source(place, **given)
    with pytest.raises(CalibrationError, match="is not there"):
        samples.open_source(tmp_path / "none")


def test_a_package_that_is_not_there_is_named_with_its_extra() -> None:
    with pytest.raises(CalibrationError, match="no_such_package") as caught:
        base.needed("no_such_package.part", "pictures", "images")
    assert caught.value.fix == "pip install 'sparsecc[images]'"


def test_other_data_pass_as_they_are() -> None:
    given = {"x": rows(2)}
    assert samples.read_source(given, ONE) is given
    assert samples.read_source(None, ONE) is None
