from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.errors import ModelError
from sparsecc.measure import agreement, largest_error, max_rel_error, rounded, run_once
from tests import small

F = np.float32


def one(*values: float, dtype: type = F) -> list[np.ndarray]:
    return [np.array(values, dtype)]


@pytest.mark.parametrize(
    ("got", "wanted", "error"),
    [
        (one(1, 2), one(1, 2), 0),
        (one(1, 2.5), one(1, 2), 0.25),
        (one(1, -4), one(2, -4), 0.25),
        (one(0, 0), one(0, 0), 0),
        (one(1), one(0), math.inf),
        (one(1, math.nan), one(1, math.nan), 0),
        (one(1, -math.inf), one(1, -math.inf), 0),
        (one(1, math.nan), one(1, 2), math.inf),
        (one(1, 2), one(1, math.nan), math.inf),
        (one(1, math.inf), one(1, -math.inf), math.inf),
        (one(1, 2), [np.array([[1, 2]], F)], math.inf),
        (one(1, 2, dtype=np.int64), one(1, 2, dtype=np.int64), 0),
        (one(1, 3, dtype=np.int64), one(1, 2, dtype=np.int64), 1),
        (one(dtype=F), one(dtype=F), 0),
        ([], [], 0),
    ],
)
def test_max_rel_error(got, wanted, error: float) -> None:
    assert max_rel_error(got, wanted) == pytest.approx(error)


def test_another_number_of_outputs_is_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        max_rel_error(one(1), [])


@given(hnp.arrays(F, (3, 2), elements=st.floats(width=32)))
def test_every_array_agrees_with_itself(array: np.ndarray) -> None:
    assert max_rel_error([array], [array.copy()]) == 0


@given(st.floats(min_value=-1, allow_nan=False))
def test_figures_are_short_and_json_holds_them(value: float) -> None:
    figure = rounded(value)
    assert figure == pytest.approx(min(value, 1e30), rel=1e-3)
    assert len(json.dumps(figure, allow_nan=False).replace("0", "")) <= 12  # 1e10 has 13 places


def scaled(factor: float):
    """A session of y = factor · x, x [n, 2]."""
    nodes = [helper.make_node("Mul", ["x", "f"], ["y"], "scale")]
    shapes = {"x": ["n", 2]}, {"y": ["n", 2]}
    proto = small.model(nodes, *shapes, {"f": np.array(factor, F)})
    return open_session(proto.SerializeToString())


FEEDS = [{"x": np.array([[3, 4]], F)}, {"x": np.array([[1, 0]], F)}]


def test_agreement_takes_the_worst_feed() -> None:
    assert agreement(scaled(2), scaled(1), FEEDS) == {"rel_error": 1.0, "cosine": 1.0}
    assert agreement(scaled(-1), scaled(1), FEEDS) == {"rel_error": 4.0, "cosine": -1.0}
    assert agreement(scaled(1), scaled(1), FEEDS) == {"rel_error": 0.0, "cosine": 1.0}
    assert agreement(scaled(1), scaled(0), FEEDS)["rel_error"] == 1e30


def test_not_a_number_where_there_was_one_is_the_worst() -> None:
    quality = agreement(scaled(math.nan), scaled(1), FEEDS)
    assert quality == {"rel_error": 1e30, "cosine": 0.0}
    assert largest_error(scaled(math.nan), scaled(1), FEEDS) == math.inf


def test_largest_error() -> None:
    assert largest_error(scaled(1.5), scaled(1), FEEDS) == pytest.approx(0.5)
    assert largest_error(scaled(1.5), scaled(1), []) == 0


def test_a_feed_the_model_does_not_take_is_told_once(capfd) -> None:
    weights = {"s": np.array([-1, 7], np.int64)}
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], "cut")]
    session = open_session(
        small.model(nodes, {"x": ["n", 2]}, {"y": ["m", 7]}, weights).SerializeToString()
    )
    with pytest.raises(ModelError, match=r"x \[1, 2\].*cut") as caught:
        run_once(session, FEEDS[0])
    assert "calibration" in str(caught.value)
    assert capfd.readouterr() == ("", "")
