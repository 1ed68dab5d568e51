"""How far an artifact is from its twin (numerics) and from the user's model (quality)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import ModelError
from sparsecc.manifest import Manifest
from sparsecc.quality import metrics

Array = NDArray[Any]
Feed = Mapping[str, Array]


class Session(Protocol):
    """What runs a model: ONNX Runtime's session, or one of ours that is like it."""

    def get_inputs(self) -> Sequence[Any]:
        """Its inputs; each has a ``name``."""

    def get_outputs(self) -> Sequence[Any]:
        """Its outputs; each has a ``name``."""

    def run(self, names: Any, feed: Any) -> Sequence[Any]:
        """Outputs by these names (None: all) for inputs by name."""


SIGNIFICANT_DIGITS = 4
TOLERANCE = 1e-3
"""Largest accepted error relative to the largest output, float32 through a whole model."""
HALF_TOLERANCE = 2e-2
"""The same where kernels read and write float16, as those for GPUs do."""
LARGEST = 1e30
"""Stands for an infinite error: JSON has no infinity."""


def tolerance(made: Manifest) -> float:
    """Largest accepted error of an artifact relative to the largest output."""
    is_half = made.hardware.get("family") == "cuda" and made.regions
    return HALF_TOLERANCE if is_half else TOLERANCE


def run_once(session: Session, feed: Feed) -> list[Array]:
    """All outputs of one run, as arrays.

    Raises:
        ModelError: The model does not run on this feed; names the node.
    """
    try:
        outputs = session.run(None, dict(feed))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
        raise ModelError(
            f"the model does not run on the inputs {shapes}: {str(error).strip()}",
            fix="give inputs that it takes as calibration data; without them they are made up",
        ) from error
    return [np.asarray(output) for output in outputs]


def max_rel_error(got: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Largest difference of any output, relative to that output's largest magnitude.

    Outputs that are not floating point count 0 when equal and 1 when not; a different shape, or
    a result that is not finite where the other is not the same, counts as infinite.
    """
    worst = 0.0
    for ours, theirs in zip(got, wanted, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        if ours.dtype.kind != "f":
            worst = max(worst, float(np.any(ours != theirs)))
            continue
        error = metrics.max_relative_error(*_equal_infinities_gone(theirs, ours))
        worst = max(worst, _finite(error, float("inf")))
    return worst


def largest_error(session: Session, reference: Session, feeds: Iterable[Feed]) -> float:
    """The worst :func:`max_rel_error` over the feeds."""
    return max(
        (max_rel_error(run_once(session, feed), run_once(reference, feed)) for feed in feeds),
        default=0.0,
    )


def agreement(session: Session, reference: Session, feeds: Iterable[Feed]) -> dict[str, float]:
    """Agreement with the dense model, the worst floating-point output over all feeds.

    Returns:
        ``rel_error`` (‖ŷ − y‖² / ‖y‖²) and ``cosine`` (mean over rows of the last axis).
    """
    errors, cosines = [0.0], [1.0]
    for feed in feeds:
        for ours, theirs in zip(run_once(session, feed), run_once(reference, feed), strict=True):
            if ours.dtype.kind == "f" and ours.shape == theirs.shape and ours.size:
                pair = _equal_infinities_gone(np.atleast_1d(theirs), np.atleast_1d(ours))
                errors.append(_finite(metrics.relative_error(*pair), LARGEST))
                cosines.append(_finite(metrics.mean_cosine(*pair), 0.0))
    return {"rel_error": rounded(max(errors)), "cosine": rounded(min(cosines))}


def rounded(value: float) -> float:
    """A figure with few enough digits to be the same on every run, and that JSON can hold."""
    return float(f"{min(value, LARGEST):.{SIGNIFICANT_DIGITS}g}")


def _finite(value: float, otherwise: float) -> float:
    """For max and min, which lose NaN."""
    return value if np.isfinite(value) else otherwise


def _equal_infinities_gone(a: Array, b: Array) -> tuple[Array, Array]:
    """Both with 0 where they are the same infinity or both NaN: there they agree."""
    same = ~np.isfinite(a) & ((a == b) | (np.isnan(a) & np.isnan(b)))
    return np.where(same, 0, a), np.where(same, 0, b)
