"""Sessions over wasmtime, against ONNX Runtime and float64."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.web.run import MODULE, RELAXED, WebSession
from sparsecc.errors import BackendError, ModelError
from tests import small
from tests.backends.web import models

TOLERANCE = 1e-5
MODULES = pytest.mark.parametrize("module", [MODULE, RELAXED])


@MODULES
def test_pictures(module: str, published: Path) -> None:
    session = WebSession(published / models.PICTURES, module)
    twin = ort.InferenceSession(small.mobilenet("4x1:0.8").SerializeToString())
    for seed in range(3):
        feed = {"image": small.image(seed)}
        (wanted,) = twin.run(None, feed)
        (found,) = session.run(None, feed)
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.fixture(scope="module")
def numbers(published: Path) -> WebSession:
    return WebSession(published / models.NUMBERS)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(-(1 << 40), 1 << 40), seed=st.integers(0, 99))
def test_open_dims_and_integers(numbers: WebSession, n: int, k: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, n)).astype(np.float32)
    found, twice = numbers.run(None, {"x": x, "k": np.array([k])})
    wanted = models.outer(x, k)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    assert twice.dtype == np.int64
    assert twice.tolist() == [2 * k]


def test_ports(numbers: WebSession) -> None:
    (x, k), (y, twice) = numbers.get_inputs(), numbers.get_outputs()
    assert (x.name, x.type, x.shape) == ("x", "tensor(float)", [2, "n"])
    assert (k.name, k.type, k.shape) == ("k", "tensor(int64)", [1])
    assert (y.name, y.shape, twice.shape) == ("y", [2, "n·n"], [1])


def test_outputs_by_name(numbers: WebSession) -> None:
    feed = {"x": np.ones((2, 1), np.float32), "k": np.array([3])}
    twice, y = numbers.run(["twice", "y"], feed)
    assert twice.tolist() == [6]
    assert y.ravel().tolist() == (3 + models.BIAS).tolist()


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": np.ones((2, 1), np.float32)}, "wants"),
        ({"x": np.ones((2, 1)), "k": np.array([1])}, "float64"),
        ({"x": np.ones((1, 2), np.float32), "k": np.array([1])}, r"\[1, 2\]"),
        ({"x": np.ones((2, 1, 1), np.float32), "k": np.array([1])}, r"\[2, 1, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(
    numbers: WebSession, feed: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        numbers.run(None, feed)


def test_too_much_memory_is_an_error(numbers: WebSession) -> None:
    feed = {"x": np.zeros((2, 30_000), np.float32), "k": np.array([1])}
    with pytest.raises((ModelError, BackendError), match=r"memory|too large|room"):
        numbers.run(None, feed)
    test_outputs_by_name(numbers)


@pytest.mark.parametrize(
    ("broken", "message"),
    [("flipped", "damaged"), ("header", "another model"), ("short", "bytes"), ("code", "load")],
)
def test_what_is_broken_is_refused(published: Path, broken: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        WebSession(published / broken)


def test_a_foreign_module_is_refused(published: Path, tmp_path: Path) -> None:
    """One that is WebAssembly, but has nothing of ours."""
    shutil.copytree(published / models.NUMBERS, tmp_path / "foreign")
    (tmp_path / "foreign" / MODULE).write_bytes(b"\0asm\1\0\0\0")
    with pytest.raises(BackendError, match="has no memory"):
        WebSession(tmp_path / "foreign")
