"""What quality is, and how much of it a changed model loses on held-out data.

A loss of quality is a *drop*: 0 for the dense model itself, and .01 for one per cent. It is the
mean over batches, whose scatter gives its uncertainty.

==================  ==============================================================================
``cosine``          1 − mean cosine between rows of the outputs and of the dense model's
``relative-error``  ‖ŷ − y‖² / ‖y‖²
``top-1``           share of rows whose largest entry is not where the dense model's is
``psnr``            root mean square error over the range: .01 is 40 dB
``accuracy``        accuracy of the dense model less that of the changed one; needs labels
a function          quality(outputs, wanted) → float, more is better: that of the dense model less
                    that of the changed one; ``wanted`` are the labels of the batch, or the dense
                    model's outputs where there are none
==================  ==============================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from sparsecc.errors import CalibrationError
from sparsecc.measure import run_once
from sparsecc.quality import metrics
from sparsecc.quality.calibration import Feed, count_samples

Array = NDArray[Any]
Outputs = Sequence[Array]
Quality = Callable[[Mapping[str, Array], Any], float]
"""A user's measure of one batch: outputs by name, and labels or the dense model's outputs."""

DEFAULT, LABELLED = "cosine", "accuracy"


@dataclasses.dataclass(frozen=True)
class Grade:
    """How a model did.

    Attributes:
        drop: Of quality, against the dense model.
        error: Standard error of ``drop`` over the batches; 0 with a single one.
        distance: ‖ŷ − y‖² / ‖y‖² of the outputs: how far the model is from the dense one, which
            changes smoothly where the drop of some hundred samples is mostly chance.
    """

    drop: float
    error: float = 0.0
    distance: float = 0.0

    @property
    def certain(self) -> float:
        """A drop that the true one is not likely to exceed."""
        return self.drop + self.error


@dataclasses.dataclass(frozen=True)
class Exam:
    """Held-out batches and what the dense model makes of them.

    Attributes:
        metric: Name of the measure.
        feeds: The batches.
        dense: Outputs of the dense model, batch by batch.
        drop: Drop of one batch, from its number and the outputs of the changed model.
    """

    metric: str
    feeds: tuple[Feed, ...]
    dense: tuple[list[Array], ...]
    drop: Callable[[int, Outputs], float]

    def grade(self, session: ort.InferenceSession) -> Grade:
        """Run a model on every batch.

        Raises:
            ModelError: It does not run on one.
        """
        return self.graded(run_once(session, feed) for feed in self.feeds)

    def graded(self, outputs: Iterable[Outputs]) -> Grade:
        """The grade of a model that made these of the batches, in order."""
        drops, distances = [], []
        for at, ours in enumerate(outputs):
            drops.append(self.drop(at, ours))
            distances.append(_worst(metrics.relative_error, self.dense[at], ours))
        sizes = [max(1, count_samples(feed)) for feed in self.feeds]
        error = float(np.std(drops, ddof=1)) / len(drops) ** 0.5 if len(drops) > 1 else 0.0
        return Grade(
            float(np.average(drops, weights=sizes)),
            error,
            float(np.average(distances, weights=sizes)),
        )


def set_exam(
    session: ort.InferenceSession,
    feeds: Sequence[Feed],
    quality: str | Quality | None = None,
    labels: Sequence[ArrayLike] | None = None,
) -> Exam:
    """An exam on some batches.

    Args:
        session: The dense model.
        feeds: Held-out batches, at least one.
        quality: Name of a measure or a function, see the module; without one ``accuracy`` where
            there are labels and ``cosine`` where there are none.
        labels: One array per batch.

    Raises:
        CalibrationError: The measure is unknown, or does not fit the outputs or the labels.
        ModelError: The dense model does not run on a batch.
    """
    dense = tuple(run_once(session, feed) for feed in feeds)
    truth = None if labels is None else [np.asarray(each) for each in labels]
    if callable(quality):
        names = [output.name for output in session.get_outputs()]
        measure = _of_user(quality, names, dense, truth)
        return Exam(getattr(quality, "__name__", "quality"), tuple(feeds), dense, measure)
    metric = quality or (DEFAULT if truth is None else LABELLED)
    if metric == LABELLED:
        return Exam(metric, tuple(feeds), dense, _accuracy_lost(dense, truth))
    if metric not in MEASURES:
        raise CalibrationError(
            f"unknown measure of quality {metric!r}",
            fix=f"use one of {', '.join((*MEASURES, LABELLED))}, or pass a function",
        )
    _first_float(dense[0], metric)  # it has one
    of_pair = MEASURES[metric]
    return Exam(metric, tuple(feeds), dense, lambda at, ours: _worst(of_pair, dense[at], ours))


MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "cosine": lambda dense, ours: 1 - metrics.mean_cosine(dense, ours),
    "relative-error": metrics.relative_error,
    "top-1": lambda dense, ours: 1 - metrics.top1_agreement(dense, ours),
    "psnr": lambda dense, ours: 10 ** (-metrics.psnr(dense, ours) / 20),
}
"""Measures of an output against the dense model's; the worst output counts."""


def _worst(of_pair: Callable[[Array, Array], float], dense: Outputs, ours: Outputs) -> float:
    """A measure of the output that it is worst for; 0 where none is of floats."""
    return max(
        (
            of_pair(np.atleast_1d(theirs), np.atleast_1d(mine))
            for theirs, mine in zip(dense, ours, strict=True)
            if theirs.dtype.kind == "f" and theirs.size
        ),
        default=0.0,
    )


def _of_user(
    quality: Quality, names: Sequence[str], dense: Sequence[Outputs], labels: Sequence[Array] | None
) -> Callable[[int, Outputs], float]:
    def wanted(at: int) -> Any:
        return labels[at] if labels is not None else dict(zip(names, dense[at], strict=True))

    def score(at: int, outputs: Outputs) -> float:
        value = float(quality(dict(zip(names, outputs, strict=True)), wanted(at)))
        if not np.isfinite(value):
            raise CalibrationError(
                f"the quality function returned {value} for batch {at}",
                fix="make it return a finite number, more being better",
            )
        return value

    best = [score(at, outputs) for at, outputs in enumerate(dense)]
    return lambda at, ours: best[at] - score(at, ours)


def _accuracy_lost(
    dense: Sequence[Outputs], labels: Sequence[Array] | None
) -> Callable[[int, Outputs], float]:
    if labels is None:
        raise CalibrationError(
            "accuracy needs labels, and there are none", fix="pass labels, one for each sample"
        )
    scores = _first_float(dense[0], LABELLED)
    for outputs, truth in zip(dense, labels, strict=True):
        if outputs[scores].shape[:-1] != truth.shape:
            raise CalibrationError(
                f"labels of shape {list(truth.shape)} for outputs of shape "
                f"{list(outputs[scores].shape)}",
                fix="pass one class number for each row of the output",
            )

    def right(at: int, outputs: Outputs) -> float:
        return float(np.mean(outputs[scores].argmax(axis=-1) == labels[at]))

    return lambda at, ours: right(at, dense[at]) - right(at, ours)


def _first_float(outputs: Outputs, metric: str) -> int:
    for number, output in enumerate(outputs):
        if output.dtype.kind == "f" and output.size:
            return number
    raise CalibrationError(
        f"{metric} needs a floating-point output, and the model has none",
        fix="pass a function of your own as quality",
    )
