from __future__ import annotations

import math

import numpy as np
import pytest

from sparsecc.quality import metrics

RNG = np.random.default_rng(0)
A = RNG.standard_normal((20, 8))


def test_equal_outputs_are_perfect() -> None:
    assert metrics.relative_error(A, A) == 0
    assert metrics.max_relative_error(A, A) == 0
    assert metrics.mean_cosine(A, A) == pytest.approx(1)
    assert metrics.top1_agreement(A, A) == 1
    assert metrics.psnr(A, A) == math.inf
    assert metrics.spearman(A, A) == pytest.approx(1)
    assert metrics.similarity_rank_agreement(A, A) == pytest.approx(1)


def test_known_values() -> None:
    assert metrics.relative_error([3.0, 4.0], [3.0, 5.0]) == pytest.approx(1 / 25)
    assert metrics.max_relative_error([3.0, -4.0], [3.0, -5.0]) == pytest.approx(1 / 4)
    assert metrics.mean_cosine([[1.0, 0], [0, 1], [0, 0]], [[1.0, 0], [1, 0], [1, 1]]) == 1 / 3
    assert metrics.top1_agreement([[1, 2], [2, 1]], [[0, 1], [0, 1]]) == 0.5
    assert metrics.psnr([0.0, 10.0], [1.0, 9.0]) == pytest.approx(20)
    assert metrics.spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)


def test_scale_does_not_change_cosine_or_ranks() -> None:
    assert metrics.mean_cosine(A, 3 * A) == pytest.approx(1)
    assert metrics.similarity_rank_agreement(A, 3 * A) == pytest.approx(1)


def test_zero_references() -> None:
    assert metrics.relative_error([0.0], [0.0]) == 0
    assert metrics.relative_error([0.0], [1.0]) == math.inf
    assert metrics.max_relative_error([0.0], [1.0]) == math.inf


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ"):
        metrics.mean_cosine(A, A[:1])
