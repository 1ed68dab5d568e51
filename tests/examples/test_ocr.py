from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples.ocr import lines, recognizer

WORDS = st.text("abc", max_size=6)


def needs_fonts() -> None:
    try:
        lines.fonts()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_lines_are_seeded_distinct_and_disjoint() -> None:
    needs_fonts()
    first, labels = lines.make_lines(40, seed=0, split="test")
    again, same_labels = lines.make_lines(40, seed=0, split="test")
    _, calibration = lines.make_lines(40, seed=0, split="calibration")
    np.testing.assert_array_equal(first, again)
    assert labels == same_labels
    assert len(set(labels)) == 40
    assert not set(labels) & set(calibration)
    assert first.shape == (40, 3, lines.HEIGHT, lines.WIDTH)
    assert np.abs(first).max() <= 1


def test_preprocess_puts_blue_first_and_pads_with_zeros() -> None:
    red = Image.new("RGB", (48, 24), (255, 0, 0))
    line = lines.preprocess(red)
    assert line is not None
    assert line[:, 0, 0].tolist() == [-1, -1, 1]
    assert line[:, :, 95].any()
    assert not line[:, :, 96:].any()
    assert lines.preprocess(Image.new("RGB", (400, 24))) is None


def test_decode_merges_repeats_and_drops_blanks() -> None:
    characters = ["", "a", "b", "！", " "]
    path = [0, 1, 1, 0, 1, 2, 4, 3, 3, 0]
    scores = np.eye(5, dtype=np.float32)[None, path]
    assert recognizer.decode(scores, characters) == ["aab !"]


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    distance = recognizer.edit_distance
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))


def test_score_counts_lines_characters_and_agreement() -> None:
    result = recognizer.score(["cat", "dig"], ["cat", "dog"], ["cut", "dig"])
    assert (result.lines, result.agreement) == (0.5, 0.5)
    assert result.characters == pytest.approx(1 - 1 / 6)


def test_the_trained_recogniser_reads_the_lines() -> None:
    needs_fonts()
    try:
        model = recognizer.package_model()
    except RuntimeError as error:
        pytest.skip(str(error))
    pictures, labels = lines.make_lines(48, seed=5, split="test")
    session = ort.InferenceSession(model)
    texts = recognizer.read(
        lambda batch: session.run(None, {recognizer.INPUT: batch})[0],
        pictures,
        recognizer.alphabet(model),
    )
    result = recognizer.score(texts, labels, texts)
    assert result.lines > 0.75
    assert result.characters > 0.95
