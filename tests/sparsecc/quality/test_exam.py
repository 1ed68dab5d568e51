"""Drops of quality: zero for the dense model, right by hand for others, clear errors for misuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.errors import CalibrationError
from sparsecc.quality import metrics
from sparsecc.quality.exam import MEASURES, Exam, set_exam
from tests import small

FEEDS = [{"x": small.tokens(seed, 8)} for seed in range(6)]


def session(changed: float = 0.0) -> Any:
    """The MLP, with noise of a relative size on the weight of its last layer."""
    model = small.mlp("n")
    for tensor in model.graph.initializer:
        if changed and tensor.name == "head.weight":
            weight = np.frombuffer(tensor.raw_data, np.float32)
            noise = np.random.default_rng(1).standard_normal(weight.size).astype(np.float32)
            tensor.raw_data = (weight + changed * noise * weight.std()).astype("<f4").tobytes()
    return open_session(model.SerializeToString())


def labels() -> list[np.ndarray]:
    """What the dense model says, a third of it turned round."""
    rng = np.random.default_rng(0)
    said = [session().run(None, feed)[0].argmax(-1) for feed in FEEDS]
    return [np.where(rng.random(len(each)) < 0.3, (each + 1) % 10, each) for each in said]


def exam(quality: Any = None, truth: Any = None) -> Exam:
    return set_exam(session(), FEEDS, quality, truth)


@pytest.mark.parametrize("quality", [*MEASURES, None])
def test_the_dense_model_loses_nothing_and_a_changed_one_something(quality: str | None) -> None:
    asked = exam(quality)
    same, near, far = (asked.grade(session(changed)) for changed in (0.0, 0.05, 0.8))
    assert same.drop == pytest.approx(0, abs=1e-6)
    assert same.error == pytest.approx(0, abs=1e-6)
    assert same.drop - 1e-6 <= near.drop < far.drop
    assert far.error > 0


def test_the_default_is_cosine_or_accuracy() -> None:
    assert exam().metric == "cosine"
    assert exam(truth=labels()).metric == "accuracy"


def test_drops_are_means_over_batches() -> None:
    changed = session(0.8)
    pairs = [(session().run(None, f)[0], changed.run(None, f)[0]) for f in FEEDS]
    each = [1 - metrics.top1_agreement(a, b) for a, b in pairs]
    grade = exam("top-1").grade(changed)
    assert grade.drop == pytest.approx(np.mean(each))
    assert grade.error == pytest.approx(np.std(each, ddof=1) / len(each) ** 0.5)


def test_larger_batches_count_more() -> None:
    feeds = [{"x": small.tokens(0, 30)}, {"x": small.tokens(1, 2)}]
    changed = session(0.8)
    wrong = sum(
        int((session().run(None, f)[0].argmax(-1) != changed.run(None, f)[0].argmax(-1)).sum())
        for f in feeds
    )
    assert set_exam(session(), feeds, "top-1").grade(changed).drop == pytest.approx(wrong / 32)


def test_accuracy_is_lost_against_the_labels() -> None:
    truth, changed = labels(), session(0.8)
    right = [
        sum(
            int((model.run(None, f)[0].argmax(-1) == t).sum())
            for f, t in zip(FEEDS, truth, strict=True)
        )
        for model in (session(), changed)
    ]
    assert exam(truth=truth).grade(changed).drop == pytest.approx((right[0] - right[1]) / 48)


def test_a_function_of_the_user_decides() -> None:
    def nearness(outputs: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
        return -float(np.abs(outputs["y"] - wanted["y"]).mean())

    asked = exam(nearness)
    assert asked.metric == "nearness"
    changed = session(0.8)
    apart = [np.abs(session().run(None, f)[0] - changed.run(None, f)[0]).mean() for f in FEEDS]
    assert asked.grade(changed).drop == pytest.approx(np.mean(apart), rel=1e-5)


def test_a_function_gets_the_labels_where_there_are_some() -> None:
    seen = []
    exam(lambda outputs, wanted: float(seen.append(wanted) or 0), labels())
    assert all((got == want).all() for got, want in zip(seen, labels(), strict=True))


@pytest.mark.parametrize(
    ("quality", "truth", "message"),
    [
        ("beauty", None, "unknown measure of quality 'beauty'"),
        ("accuracy", None, "accuracy needs labels"),
        ("accuracy", [np.zeros(3, int)] * 6, r"labels of shape \[3\]"),
        (lambda outputs, wanted: float("nan"), None, "returned nan for batch 0"),
    ],
)
def test_misuse_is_one_clear_error(quality: Any, truth: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        exam(quality, truth)
