"""Folders of .wav files, made on the fly, as inputs of a model."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import wavfile

from sparsecc.errors import CalibrationError
from sparsecc.quality import samples
from sparsecc.quality.calibration import load_calibration

RATE = 16_000


def model_of(*dims: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    value = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(dims))
    return ir.Model(ir.Graph([value], [], nodes=[], opset_imports={"": 18}), ir_version=10)


OPEN = model_of("n", "t")


def read(source: samples.Samples, model: ir.Model = OPEN) -> NDArray[Any]:
    drawn = source.read(model)
    assert isinstance(drawn, dict)
    assert load_calibration(drawn, model).train
    return drawn["x"]


def tone(count: int, rate: int = RATE, channels: int = 1) -> NDArray[np.float64]:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
    return np.repeat(wave[:, None], channels, axis=1) if channels > 1 else wave


def packed_24(values: NDArray[np.float64], rate: int) -> bytes:
    """A file of 24 bits, which scipy reads but does not write."""
    whole = np.round(values * 2**23).astype(np.int32)
    data = b"".join(struct.pack("<i", v)[:3] for v in whole.ravel())
    form = struct.pack("<HHIIHH", 1, 1, rate, rate * 3, 3, 24)
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


@given(
    kind=st.sampled_from(["u8", "i16", "i24", "i32", "f32", "f64"]),
    values=st.lists(st.floats(-0.99, 0.99), min_size=1, max_size=40),
)
def test_every_format_gives_the_same_wave(
    tmp_path_factory: pytest.TempPathFactory, kind: str, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("sounds") / "a.wav"
    wave = np.array(values)
    whole = {
        "u8": lambda: np.round(wave * 128 + 128).clip(0, 255).astype(np.uint8),
        "i16": lambda: np.round(wave * 2**15).astype(np.int16),
        "i32": lambda: np.round(wave * 2**31).astype(np.int32),
        "f32": lambda: wave.astype(np.float32),
        "f64": lambda: wave,
    }
    if kind == "i24":
        path.write_bytes(packed_24(wave, RATE))
    else:
        wavfile.write(path, RATE, whole[kind]())
    steps = {"u8": 2**-7, "i16": 2**-15, "i24": 2**-23}
    np.testing.assert_allclose(
        read(samples.waves(path.parent))[0], wave, atol=steps.get(kind, 1e-7) + 1e-7
    )


def test_sounds_are_cut_and_padded_to_the_length_of_the_model(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, tone(100).astype(np.float32))
    wavfile.write(tmp_path / "b.wav", RATE, tone(30).astype(np.float32))
    fixed = read(samples.waves(tmp_path), model_of("n", 50))
    assert fixed.shape == (2, 50)
    np.testing.assert_allclose(fixed[0], tone(50), atol=1e-6)
    assert np.all(fixed[1, 30:] == 0)
    assert read(samples.waves(tmp_path)).shape == (2, 100)
    assert read(samples.waves(tmp_path, seconds=0.005)).shape == (2, 80)
    assert read(samples.waves(tmp_path), model_of("n", 1, "t")).shape == (2, 1, 100)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_another_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    wavfile.write(tmp_path / "a.wav", rate, tone(rate, rate).astype(np.float32))
    made = read(samples.waves(tmp_path))
    assert made.shape == (1, RATE)
    inner = slice(500, -500)  # a filter has no past at the first sample
    np.testing.assert_allclose(made[0, inner], tone(RATE)[inner], atol=2e-3)
    cut = read(samples.waves(tmp_path), model_of("n", 4000))
    np.testing.assert_allclose(cut[0, inner], tone(4000)[inner], atol=2e-3)


def test_stereo_is_mixed_or_kept(tmp_path: Path) -> None:
    both = np.stack([tone(50), -tone(50)], axis=1).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", RATE, both)
    np.testing.assert_allclose(read(samples.waves(tmp_path)), 0, atol=1e-6)
    kept = read(samples.waves(tmp_path), model_of("n", 2, "t"))
    np.testing.assert_allclose(kept[0], both.T, atol=1e-6)
    with pytest.raises(CalibrationError, match=r"a\.wav has 2 channels, the model takes 4"):
        read(samples.waves(tmp_path), model_of("n", 4, "t"))


def test_settings_say_the_rate_and_the_deviation(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, (tone(160) + 0.1).astype(np.float32))
    said = '{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000, '
    (tmp_path / "preprocessor_config.json").write_text(said + '"do_normalize": true}')
    made = read(samples.open_source(tmp_path))
    assert made.shape == (1, 80)
    assert abs(made.mean()) < 1e-5
    assert made.std() == pytest.approx(1, abs=1e-3)
    plain = read(samples.waves(tmp_path, rate=RATE, normalize=False))
    np.testing.assert_allclose(plain[0], tone(160) + 0.1, atol=1e-6)


@pytest.mark.parametrize("cut", [0, 10, 30, 44, 60])
def test_a_truncated_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.wav"
    wavfile.write(path, RATE, tone(100).astype(np.float32))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CalibrationError, match=r"a\.wav is not a readable \.wav file") as caught:
        read(samples.waves(tmp_path))
    assert caught.value.fix


@given(at=st.integers(0, 243), byte=st.integers(0, 255))
def test_a_damaged_byte_is_read_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("sounds") / "a.wav"
    wavfile.write(path, RATE, (tone(100) * 2**15).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[at] = byte
    path.write_bytes(bytes(data))
    try:
        assert np.isfinite(read(samples.waves(path.parent))).all()
    except CalibrationError as error:
        said = error.message
        if "a.wav" not in said:
            pytest.fail(said)


def test_nan_is_refused(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, np.array([0, np.nan], np.float32))
    with pytest.raises(CalibrationError, match=r"a\.wav.*NaN"):
        read(samples.waves(tmp_path))


@pytest.mark.parametrize(
    "model", [model_of("n", 3, 8, 8), model_of("n", "t", dtype=ir.DataType.INT64)]
)
def test_a_model_that_takes_no_sounds(tmp_path: Path, model: ir.Model) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, tone(100).astype(np.float32))
    with pytest.raises(CalibrationError, match="no input of the model takes sounds"):
        read(samples.waves(tmp_path), model)


def test_a_feature_extractor_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    wavfile.write(tmp_path / "a.wav", RATE, (tone(160) + 0.1).astype(np.float32))
    theirs = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True)
    made = read(samples.waves(tmp_path, processor=theirs))
    np.testing.assert_allclose(made, read(samples.waves(tmp_path, normalize=True)), atol=1e-4)
