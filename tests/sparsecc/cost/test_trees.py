"""Ensembles as plain numbers: they say what scikit-learn says, and bad ones are refused."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor

from sparsecc.cost import trees
from sparsecc.cost.trees import Ensemble, Size, Tree, fit

SIZE = Size(trees=12, leaves=6, rate=0.3)
STUMP = {
    "feature": (1, 0, 0),
    "threshold": (0.5, 0.0, 0.0),
    "left": (1, 0, 0),
    "right": (2, 0, 0),
    "value": (0.0, -1.0, 2.0),
}


def data(seed: int, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 4))
    return x, np.where(x[:, 0] > 0, x[:, 1] * 2, np.abs(x[:, 2])) + 0.01 * x[:, 3]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_says_what_scikit_learn_says(seed: int) -> None:
    x, y = data(seed)
    grown = GradientBoostingRegressor(
        loss="huber",
        n_estimators=10,
        max_depth=None,
        max_leaf_nodes=7,
        learning_rate=0.25,
        random_state=0,
    ).fit(x, y)
    ours = trees._ensemble(grown, 4, 0.25)
    more, _ = data(seed + 1)
    np.testing.assert_allclose(ours.predict(more), grown.predict(more), rtol=1e-4, atol=1e-4)


def test_it_learns_and_is_the_same_every_time() -> None:
    x, y = data(0, 400)
    found = fit(x, y, Size(trees=80, leaves=8, rate=0.2))
    assert np.abs(found.predict(x) - y).mean() < 0.2 * np.abs(y - y.mean()).mean()
    assert fit(x, y, SIZE) == fit(x, y, SIZE)


def test_the_round_trip_keeps_what_it_says() -> None:
    x, y = data(1)
    found = fit(x, y, SIZE)
    again = Ensemble.model_validate_json(found.model_dump_json())
    assert again == found
    np.testing.assert_array_equal(again.predict(x), found.predict(x))


def test_a_stump_goes_left_up_to_its_threshold() -> None:
    ensemble = Ensemble(features=2, first=10.0, trees=(Tree(**STUMP),) * 2)
    x = np.array([[9.0, 0.5], [9.0, 0.51], [-9.0, -1.0]])
    np.testing.assert_array_equal(ensemble.predict(x), [8.0, 14.0, 8.0])
    assert Ensemble(features=1, first=3.0, trees=()).predict(np.zeros((2, 1))).tolist() == [3, 3]


BAD = {
    "a circle": {"left": (0, 0, 0), "right": (2, 0, 0)},
    "a node that is not there": {"right": (3, 0, 0)},
    "a parent as child": {"left": (1, 1, 0)},
    "lists of other lengths": {"value": (0.0,)},
    "nothing": dict.fromkeys(STUMP, ()),
    "an infinity": {"value": (0.0, float("inf"), 0.0)},
    "a text": {"threshold": ("0.5", 0.0, 0.0)},
    "less than none": {"feature": (-1, 0, 0)},
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_tree_is_refused(case: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        Tree(**(STUMP | BAD[case]))


def test_a_feature_that_there_is_not_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="a feature that there is not"):
        Ensemble(features=1, first=0.0, trees=(Tree(**STUMP),))
