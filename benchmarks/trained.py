"""Trained models for the benchmarks of quality: calibration, what counts as quality, fresh data.

Calibration and test data are disjoint: other words, other sentences, other photographs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.imagenet_cnn import compare as photographs
from examples.ocr.lines import make_lines
from examples.ocr.recognizer import INPUT, alphabet, decode, package_model, score
from examples.sentence_embeddings import compare as sentences
from examples.sentence_embeddings.encoder import tokenize, trained

Array = NDArray[Any]
Outputs = Mapping[str, Array]

CALIBRATION_LINES, TEST_LINES = 1600, 800
CALIBRATION_PAGES, TEST_PAGES, PAGE, LINES_PER_PAGE = 256, 128, 320, 5
LESSON = 32
TEXT = 0.3  # the detector's own threshold
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained model and how to judge what becomes of it.

    Attributes:
        title: Of the model.
        measure: What its quality is, in words.
        model: ONNX file or torch module.
        settings: How to search for a plan: calibration, labels, quality, example inputs.
        one: What a single run is timed on.
        test: Fresh inputs.
        quality: Outputs for them, and those of the dense model → quality, 0 to 1.
    """

    title: str
    measure: str
    model: Any
    settings: Mapping[str, Any]
    one: Mapping[str, Array]
    test: Mapping[str, Array]
    quality: Callable[[Outputs, Outputs], float]


def recogniser() -> Subject:
    """PP-OCRv4's recogniser on rendered lines: characters read right."""
    model = package_model()
    characters = alphabet(model)

    def right(outputs: Outputs, labels: Any) -> float:
        texts = decode(next(iter(outputs.values())), characters)
        return score(texts, list(labels), texts).characters

    lines, labels = make_lines(CALIBRATION_LINES, seed=1, split="calibration")
    fresh, wanted = make_lines(TEST_LINES, seed=5, split="test")
    return Subject(
        title="PP-OCRv4 recogniser",
        measure="characters read right",
        model=model,
        settings={"calibration": {INPUT: lines}, "labels": np.array(labels), "quality": right},
        one={INPUT: fresh[:1]},
        test={INPUT: fresh},
        quality=lambda ours, dense: right(ours, wanted),
    )


def detector() -> Subject:
    """PP-OCRv4's detector on pages of rendered lines: F₁ of text pixels to the dense model's."""

    def overlap(outputs: Outputs, dense: Any) -> float:
        ours, theirs = (next(iter(each.values())) > TEXT for each in (outputs, dense))
        return float(2 * (ours & theirs).sum() / max(1, ours.sum() + theirs.sum()))

    fresh = _pages(TEST_PAGES, 6, "test")
    calibration = {INPUT: _pages(CALIBRATION_PAGES, 2, "calibration")}
    return Subject(
        title="PP-OCRv4 detector",
        measure="F₁ of text pixels to the dense model's",
        model=package_model("ch_PP-OCRv4_det_infer.onnx"),
        settings={"calibration": calibration, "quality": overlap},
        one={INPUT: fresh[:1]},
        test={INPUT: fresh},
        quality=overlap,
    )


def _pages(count: int, seed: int, split: Any) -> NDArray[np.float32]:
    """Pages of rendered lines at random places, as the detector wants them."""
    rng = np.random.default_rng(seed)
    lines, _ = make_lines(count * LINES_PER_PAGE, seed=seed, split=split)
    height = lines.shape[2]
    pages = np.empty((count, 3, PAGE, PAGE), np.float32)
    groups = lines.reshape(count, LINES_PER_PAGE, *lines.shape[1:])
    for page, chosen in zip(pages, groups, strict=True):
        page[:] = rng.uniform(-1, 1, (3, 1, 1))
        gap = (PAGE - LINES_PER_PAGE * height) // LINES_PER_PAGE
        for row, line in enumerate(chosen):
            used = int(np.flatnonzero(np.abs(line).sum((0, 1)))[-1]) + 1
            top = row * (height + gap) + int(rng.integers(0, gap + 1))
            left = int(rng.integers(0, PAGE - used + 1))
            page[:, top : top + height, left : left + used] = line[:, :, :used]
    scaled = (pages / 2 + 0.5 - MEAN[:, None, None]) / DEVIATION[:, None, None]
    return scaled.astype(np.float32)


def encoder() -> Subject:
    """MiniLM's sentence embeddings: mean cosine to the dense model's."""
    import torch

    words = sentences.sentences("calibration", shortest=sentences.CALIBRATION_WORDS)
    calibration = tokenize(words[: sentences.CALIBRATION_SENTENCES], sentences.CALIBRATION_TOKENS)
    fresh = tokenize(sentences.sentences("test")[: sentences.TEST_SENTENCES], sentences.TEST_TOKENS)
    return Subject(
        title="all-MiniLM-L6-v2",
        measure="mean cosine to the dense embeddings",
        model=trained(),
        settings={
            "calibration": calibration,
            "example_inputs": {n: torch.from_numpy(each[:8]) for n, each in fresh.items()},
            "dynamic_shapes": sentences.DYNAMIC,
        },
        one={name: each[:1] for name, each in fresh.items()},
        test=fresh,
        quality=_cosine,
    )


def _lessons() -> list[dict[str, Array]]:
    """All of the calibration sentences, cut nowhere, in batches of about the same length."""
    words = sorted(sentences.sentences("calibration"), key=lambda each: (len(each.split()), each))
    batches = []
    for start in range(0, len(words), LESSON):
        batch = tokenize(words[start : start + LESSON], sentences.TEST_TOKENS)
        used = int(batch["attention_mask"].sum(1).max())
        batches.append({name: each[:, :used] for name, each in batch.items()})
    order = np.random.default_rng(0).permutation(len(batches))
    return [batches[number] for number in order]


def photograph_classifier() -> Subject:
    """EfficientNet-Lite0 on crops of photographs: mean cosine of the logits."""
    import torch

    batches = [
        {"inputs": photographs.crops((name,), photographs.CROPS, seed)}
        for seed, name in enumerate(photographs.CALIBRATION)
    ]  # a photograph is in one batch, so never on both sides
    fresh = photographs.crops(photographs.TEST, photographs.CROPS, seed=99)
    return Subject(
        title="EfficientNet-Lite0",
        measure="mean cosine of the logits",
        model=photographs.trained(),
        settings={
            "calibration": batches,
            "example_inputs": (torch.from_numpy(fresh[:2]),),
            "dynamic_shapes": ({0: torch.export.Dim("batch")},),
        },
        one={"inputs": fresh[:1]},
        test={"inputs": fresh},
        quality=_cosine,
    )


def _cosine(ours: Outputs, dense: Outputs) -> float:
    a, b = (next(iter(each.values())).astype(np.float64) for each in (ours, dense))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).mean())


def mnist() -> Subject:
    """A CNN of four 3x3 layers with BatchNorm, trained here on MNIST: digits read right."""
    from examples._mnist import mnist as pictures
    from examples.mnist_cnn.model import train

    (seen, _), (fresh, wanted) = pictures("train"), pictures("test")
    return _classifier("CNN, MNIST", train(0), seen, fresh, wanted)


def digits() -> Subject:
    """A CNN of three 3x3 layers, trained here on scikit-learn's digits: digits read right."""
    from examples.digits_cnn import compare as cnn

    pictures, labels = cnn.digits()
    model = cnn.train(pictures[: cnn.TRAIN], labels[: cnn.TRAIN], seed=0)
    seen, fresh = pictures[: cnn.TRAIN], pictures[cnn.TRAIN :]
    return _classifier("CNN, scikit-learn's digits", model, seen, fresh, labels[cnn.TRAIN :])


def _classifier(title: str, model: Any, seen: Array, fresh: Array, wanted: Array) -> Subject:
    """A torch classifier over one input, calibrated on pictures without their labels."""
    import torch

    return Subject(
        title=title,
        measure="pictures read right",
        model=model,
        settings={"calibration": {"input": seen}, "example_inputs": (torch.from_numpy(seen[:2]),)},
        one={"input": fresh[:1]},
        test={"input": fresh},
        quality=lambda ours, _: float((next(iter(ours.values())).argmax(1) == wanted).mean()),
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "recogniser": recogniser,
    "detector": detector,
    "encoder": encoder,
    "photographs": photograph_classifier,
}
SMALL: dict[str, Callable[[], Subject]] = {"mnist": mnist, "digits": digits}
"""Networks that are trained when they are asked for."""


def taught(name: str, subject: Subject) -> Any:
    """The calibration that a recovery of a subject learns from: more than statistics need."""
    return _lessons() if name == "encoder" else subject.settings["calibration"]


__all__ = ["SMALL", "SUBJECTS", "Subject", "taught"]
