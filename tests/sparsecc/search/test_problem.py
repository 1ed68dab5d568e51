from __future__ import annotations

import numpy as np
import pytest

from sparsecc.search.problem import Problem

TWO = {
    "names": ["a", "b"],
    "times": [[1.0, 0.5], [2.0, 1.5, 0.25]],
    "losses": [[0.0, 0.125], [0.0, 0.25, 0.5]],
    "sizes": [[100, 60], [200, 150, 50]],
}


def test_sums_over_layers_and_the_fixed_part() -> None:
    problem = Problem(**TWO, fixed_ms=10.0)  # type: ignore[arg-type]
    assert problem.dense == (0, 0)
    assert problem.ms((1, 2)) == 10.75
    assert problem.loss((1, 2)) == 0.625
    assert problem.bytes((1, 2)) == 110


def test_what_was_given_may_change_afterwards() -> None:
    times = [np.array([1.0, 0.5])]
    problem = Problem(["a"], times, [np.zeros(2)], [np.ones(2)])
    times[0][:] = 7
    assert problem.ms((1,)) == 0.5
    with pytest.raises(ValueError, match="read-only"):
        problem.times[0][0] = 7


def test_an_unmeasured_layer_is_allowed_a_half_measured_one_is_not() -> None:
    nan = float("nan")
    Problem(["a"], [[1, 2]], [[nan, nan]], [[1, 1]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="losses of layer 'a'"):
        Problem(["a"], [[1, 2]], [[0.0, nan]], [[1, 1]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a"]}, "1 names, but times of 2 layers"),
        ({"losses": [[0.0, 0.1], [0.0, 0.1]]}, "layer 'b' have shapes"),
        ({"sizes": [[100, 60], [200, 150, -1]]}, "sizes of layer 'b'"),
        ({"times": [[1.0, np.inf], [2.0, 1.5, 0.2]]}, "times of layer 'a'"),
        ({"times": [[], []], "losses": [[], []], "sizes": [[], []]}, "layer 'a' have shapes"),
        ({"fixed_ms": float("nan")}, "fixed_ms is nan"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(**(TWO | change))  # type: ignore[arg-type]
