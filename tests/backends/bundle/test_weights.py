"""The weights file: what is in it, its hash in numpy and by hand, and what cannot be in one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.bundle.weights import ALIGN, TYPES, hash_words, write_weights
from sparsecc.errors import ArtifactError, BackendError

_U64 = (1 << 64) - 1


def slow_hash(words: list[int]) -> int:
    """The hash as weights.c computes it, word by word."""
    total = 0
    for at, word in enumerate(words):
        v = (word + at * 0x9E3779B97F4A7C15) & _U64
        v = ((v ^ v >> 32) * 0xBF58476D1CE4E5B9) & _U64
        total += v ^ v >> 29
    return total & _U64


@given(st.lists(st.integers(0, _U64), max_size=40), st.integers(0, 40))
def test_the_hash_is_the_sum_of_mixed_words(words: list[int], cut: int) -> None:
    array = np.array(words, np.uint64)
    parts = hash_words(array[:cut], 0) + hash_words(array[cut:], min(cut, len(array)))
    assert parts & _U64 == slow_hash(words)


def test_the_hash_goes_on_from_block_to_block() -> None:
    array = np.random.default_rng(0).integers(0, _U64, 70_001, np.uint64)
    halves = hash_words(array[:35_000], 0) + hash_words(array[35_000:], 35_000)
    assert hash_words(array, 0) == halves & _U64


@given(st.data())
def test_one_changed_word_changes_the_hash(data: st.DataObject) -> None:
    words = np.array(data.draw(st.lists(st.integers(0, _U64), min_size=1, max_size=9)), np.uint64)
    changed = words.copy()
    at = data.draw(st.integers(0, len(words) - 1))
    changed[at] ^= np.uint64(data.draw(st.integers(1, _U64)))
    assert hash_words(changed, 0) != hash_words(words, 0)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (16,), (17,), (3, 5, 2)])
@pytest.mark.parametrize("dtype", [*TYPES, "bool"])
def test_every_constant_lies_on_a_line(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 2, shape).astype(dtype)
    second = np.arange(5, dtype=np.float32)[::-1]
    made = write_weights({"a": first, "b": second, "c": first}, ["a", "b"], tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    magic, version, zero, total, size = struct.unpack("<8sIIQQ32x", content[:ALIGN])
    assert (magic, version, zero) == (b"sparsecc", 1, 0)
    assert (total, size) == (made.hash, made.bytes) == (total, len(content) - ALIGN)
    assert slow_hash(np.frombuffer(content[ALIGN:], np.uint64).tolist()) == total
    for stored, array in zip(made.stored, (first, second), strict=True):
        at = ALIGN + stored.line * ALIGN
        raw = np.ascontiguousarray(array).tobytes()
        assert content[at : at + len(raw)] == raw
        assert stored.dims == array.shape


def test_what_no_kernel_reads_is_refused_by_name(tmp_path: Path) -> None:
    for array in (np.zeros(3, np.float64), np.zeros((1,) * 7, np.float32)):
        with pytest.raises(BackendError, match=r"'layer\.weight'"):
            write_weights({"layer.weight": array}, ["layer.weight"], tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot write"):
        write_weights({}, [], tmp_path / "none" / "w")
