"""Folders of pictures, made on the fly, as inputs of a model."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from sparsecc.errors import CalibrationError
from sparsecc.quality import samples
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.samples.settings import Settings, make_settings


def model_of(*dims: int | str, dtype: ir.DataType = ir.DataType.FLOAT, **more: Any) -> ir.Model:
    values = [
        ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(sizes))
        for name, (kind, sizes) in {"x": (dtype, dims), **more}.items()
    ]
    return ir.Model(ir.Graph(values, [], nodes=[], opset_imports={"": 18}), ir_version=10)


SMALL = model_of("n", 3, 8, 8)


def read(source: samples.Samples, model: ir.Model = SMALL) -> NDArray[Any]:
    drawn = source.read(model)
    assert isinstance(drawn, dict)
    assert load_calibration(drawn, model).train
    return drawn["x"]


def save(folder: Path, name: str, pixels: NDArray[np.uint8], **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def random(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@given(
    mean=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.1, 2), min_size=3, max_size=3),
    scale=st.sampled_from([1.0, 1 / 255, 2.0]),
    bgr=st.booleans(),
)
def test_a_picture_of_the_right_size_is_its_pixels_scaled(
    tmp_path_factory: pytest.TempPathFactory,
    mean: list[float],
    std: list[float],
    scale: float,
    bgr: bool,
) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = random(8, 8)
    save(folder, "a.png", pixels)
    made = read(
        samples.images(folder, mean=mean, std=std, scale=scale, channels="BGR" if bgr else "RGB")
    )
    chosen = pixels[:, :, ::-1] if bgr else pixels
    wanted = (chosen * scale - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(made[0], wanted.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert made.dtype == np.float32


def test_layout_channels_and_bytes_follow_the_model(tmp_path: Path) -> None:
    pixels = random(8, 8)
    save(tmp_path, "a.png", pixels)
    source = samples.images(tmp_path)
    last = read(source, model_of("n", 8, 8, 3))
    np.testing.assert_allclose(last[0], pixels / 255, atol=1e-6)
    grey = read(source, model_of("n", 1, 8, 8))
    assert grey.shape == (1, 1, 8, 8)
    raw = read(
        samples.images(tmp_path, mean=(0.5,)), model_of("n", 3, 8, 8, dtype=ir.DataType.UINT8)
    )
    assert np.array_equal(raw[0], pixels.transpose(2, 0, 1))
    half = read(source, model_of("n", 3, 8, 8, dtype=ir.DataType.FLOAT16))
    assert half.dtype == np.float16


def test_crop_keeps_the_middle_stretch_keeps_all_and_pad_fills(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = random(8, 8) // 2 + 64
    save(tmp_path, "a.png", pixels)
    cropped = read(samples.images(tmp_path))
    np.testing.assert_allclose(cropped[0], pixels[:, 4:12].transpose(2, 0, 1) / 255, atol=1e-6)
    stretched = read(samples.images(tmp_path, fit="stretch"))[0]
    assert np.all(stretched[:, :, [0, 7]] < 0.2)
    padded = read(samples.images(tmp_path, fit="pad", mean=(0.5,)))[0]
    assert np.all(padded[:, 4:] == 0)
    assert np.all(padded[:, :4, 0] < -0.3)


def test_a_shorter_side_of_256_and_a_crop_of_224_keep_the_middle_of_the_picture(
    tmp_path: Path,
) -> None:
    save(tmp_path, "a.png", random(16, 16))
    settings = Settings.model_validate({"size": {"shortest_edge": 16}, "crop_size": 8})
    made = read(samples.images(tmp_path, settings=settings))
    pixels = random(16, 16)[4:12, 4:12]
    np.testing.assert_allclose(made[0], pixels.transpose(2, 0, 1) / 255, atol=1e-6)


def test_settings_beside_the_pictures_count(tmp_path: Path) -> None:
    pixels = random(8, 8)
    save(tmp_path, "a.png", pixels)
    said = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "size": {"height": 8, "width": 8},
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    made = read(samples.open_source(tmp_path), model_of("n", 3, "h", "w"))
    np.testing.assert_allclose(made[0], (pixels / 255 - 0.5).transpose(2, 0, 1) / 0.25, atol=1e-5)
    assert make_settings(tmp_path / "preprocessor_config.json").fit == "stretch"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a readable"),
        ("[]", "not an object"),
        ('{"image_mean": "red"}', "image_mean"),
        ('{"image_meen": [0.5]}', "image_mean"),
        ('{"image_std": [0.5, 0]}', "zero"),
        ('{"size": {"height": 0}}', "height"),
        ('{"size": {"height": 100000000}}', "height"),
        ('{"size": [1, 2, 3]}', "two"),
        ('{"rescale_factor": 1e999}', "rescale_factor"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=said) as caught:
        make_settings(path)
    assert caught.value.fix


def test_names_are_sorted_folders_included_and_a_limit_takes_some_of_all(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path, f"{number % 2}/{number:02d}.bmp", np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "README.md").write_text("not a picture")
    save(tmp_path, ".hidden/no.png", random(8, 8))
    everything = read(samples.images(tmp_path, scale=1.0))[:, 0, 0, 0]
    assert everything.tolist() == [*range(0, 20, 2), *range(1, 20, 2)]
    some = read(samples.images(tmp_path, scale=1.0, limit=4))[:, 0, 0, 0]
    assert some.tolist() == [0, 10, 1, 11]
    assert np.array_equal(some, read(samples.images(tmp_path, scale=1.0, limit=4))[:, 0, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_every_format_and_a_truncated_file_of_it(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, f"a.{suffix}", random(40, 40))
    assert read(samples.images(tmp_path)).shape == (1, 3, 8, 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CalibrationError, match=rf"a\.{suffix} is not a readable picture"):
        read(samples.images(tmp_path))


@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_byte_is_read_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    path = save(folder, "a.png", random(10, 10))
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(bytes(data))
    try:
        assert read(samples.images(folder)).shape == (1, 3, 8, 8)
    except CalibrationError as error:
        said = error.message
        if "a.png" not in said:
            pytest.fail(said)


def test_a_small_file_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "bomb.png").write_bytes(data + chunk(b"IEND", b""))
    with pytest.raises(CalibrationError, match=r"bomb\.png"):
        read(samples.images(tmp_path))
    header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "bomb.png").write_bytes(data + chunk(b"IEND", b""))
    with pytest.raises(CalibrationError, match="9000 x 9000 pixels"):
        read(samples.images(tmp_path))


def test_sixteen_bits_transparency_palettes_and_turned_cameras(tmp_path: Path) -> None:
    deep = np.full((8, 8), 0x8000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(samples.images(tmp_path)), 0.5, atol=0.01)
    save(tmp_path, "a.png", random(8, 8, 4))
    assert read(samples.images(tmp_path)).shape == (1, 3, 8, 8)
    assert read(samples.images(tmp_path), model_of("n", 4, 8, 8)).shape == (1, 4, 8, 8)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path, "a.png", pixels, exif=exif)
    turned = read(samples.images(tmp_path))[0, 0]
    assert np.all(turned[7] == 1)
    assert np.all(turned[:7] == 0)


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    outside = save(tmp_path, "secret.png", random(8, 8))
    folder = tmp_path / "pictures"
    inside = save(folder, "a.png", random(8, 8))
    (folder / "b.png").symlink_to(inside)
    assert len(read(samples.images(folder))) == 2
    (folder / "c.png").symlink_to(outside)
    with pytest.raises(CalibrationError, match=r"c\.png is a link"):
        read(samples.images(folder))


def test_what_is_no_folder_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="not a folder"):
        read(samples.images(tmp_path / "none"))
    with pytest.raises(CalibrationError, match="holds no pictures"):
        read(samples.images(tmp_path))
    save(tmp_path, "a.png", random(8, 8))
    with pytest.raises(CalibrationError, match="0 samples"):
        read(samples.images(tmp_path, limit=0))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (model_of("n", 2, 8, 8), "2 channels"),
        (model_of("n", 10), "no input of the model takes pictures"),
        (model_of("n", 3, "h", "w"), "how large"),
        (model_of("n", 3, 8, 8, more=(ir.DataType.FLOAT, ["n", 4])), "do not cover the input more"),
    ],
)
def test_models_that_the_pictures_are_not_for(tmp_path: Path, model: ir.Model, said: str) -> None:
    save(tmp_path, "a.png", random(8, 8))
    with pytest.raises(CalibrationError, match=said) as caught:
        read(samples.images(tmp_path), model)
    assert caught.value.fix
    if "how large" in said:
        assert read(samples.images(tmp_path, size=(8, 8)), model).shape == (1, 3, 8, 8)


def test_numbers_for_channels_that_are_not_there(tmp_path: Path) -> None:
    save(tmp_path, "a.png", random(8, 8))
    with pytest.raises(CalibrationError, match="2 numbers"):
        read(samples.images(tmp_path, mean=(0.5, 0.5)))


def test_a_processor_of_transformers_does_it_all(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save(tmp_path, "a.png", random(8, 8))
    save(tmp_path, "b.png", random(8, 8, seed=1))
    mean, std = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    size = {"height": 8, "width": 8}
    theirs = transformers.ViTImageProcessor(size=size, image_mean=mean, image_std=std)
    made = read(samples.images(tmp_path, processor=theirs))
    np.testing.assert_allclose(made, read(samples.images(tmp_path, mean=mean, std=std)), atol=1e-5)
    theirs.save_pretrained(tmp_path)  # its own settings file, read as it is
    np.testing.assert_allclose(made, read(samples.images(tmp_path)), atol=1e-5)
