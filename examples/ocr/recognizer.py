"""The PP-OCRv4 recogniser of the package rapidocr-onnxruntime: file, decoding, scores."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from examples._packages import package_folder

Pictures = NDArray[np.float32]
Run = Callable[[Pictures], NDArray[np.float32]]

INPUT = "x"
BATCH = 16


def package_model(file: str = "ch_PP-OCRv4_rec_infer.onnx") -> Path:
    """Path of a model file of rapidocr-onnxruntime, without importing that package.

    Raises:
        RuntimeError: The package is not installed.
    """
    fix = "pip install --no-deps --ignore-requires-python rapidocr-onnxruntime==1.4.4"
    missing = f"the PP-OCRv4 models are missing; {fix}"
    return package_folder("rapidocr_onnxruntime", missing) / "models" / file


def alphabet(model: Path) -> list[str]:
    """Characters by class number: class 0 is CTC's blank, the last class is the space."""
    properties = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    return ["", *properties["character"].split("\n"), " "]


def decode(scores: NDArray[np.float32], characters: Sequence[str]) -> list[str]:
    """Greedy CTC: the best class per column, repeats merged, blanks dropped.

    Args:
        scores: [lines, columns, classes].
        characters: `alphabet(model)`.

    Returns:
        One string per line; full-width forms are written as their plain equivalents.
    """
    lines = []
    for best in scores.argmax(-1):
        kept = best[np.insert(best[1:] != best[:-1], 0, True)]
        text = "".join(characters[index] for index in kept)
        lines.append(unicodedata.normalize("NFKC", text).strip())
    return lines


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


@dataclass(frozen=True)
class Score:
    """Accuracy over a set of lines, each in [0, 1].

    Attributes:
        lines: Share of lines read without a mistake.
        characters: 1 − edit distance / label length, over all lines together.
        agreement: Share of lines read as the dense model reads them, right or wrong.
    """

    lines: float
    characters: float
    agreement: float


def score(texts: Sequence[str], labels: Sequence[str], dense: Sequence[str]) -> Score:
    """Scores `texts` against the exact labels and against the dense model's reading."""
    pairs = list(zip(texts, labels, strict=True))
    wrong = sum(edit_distance(text, label) for text, label in pairs)
    return Score(
        lines=sum(text == label for text, label in pairs) / len(pairs),
        characters=1 - wrong / sum(map(len, labels)),
        agreement=sum(a == b for a, b in zip(texts, dense, strict=True)) / len(pairs),
    )


def read(run: Run, pictures: Pictures, characters: Sequence[str]) -> list[str]:
    """Reads all pictures in batches with `run`."""
    batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    return [text for batch in batches for text in decode(run(batch), characters)]
