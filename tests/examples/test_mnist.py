from __future__ import annotations

import numpy as np
import pytest

from examples._mnist import data_file, mnist


@pytest.fixture(autouse=True)
def _needs_rows() -> None:
    try:
        data_file()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_splits_are_balanced_disjoint_and_always_the_same() -> None:
    train, train_labels = mnist("train")
    test, test_labels = mnist("test")
    assert train.shape == (4000, 1, 28, 28)
    assert test.shape == (1000, 1, 28, 28)
    assert (np.bincount(train_labels) == 400).all()
    assert (np.bincount(test_labels) == 100).all()
    seen = {picture.tobytes() for picture in train}
    assert not seen & {picture.tobytes() for picture in test}
    np.testing.assert_array_equal(mnist("test")[0], test)


def test_pictures_are_digits_in_their_usual_range() -> None:
    pictures, labels = mnist("test")
    assert (pictures.min(), pictures.max()) == (0, 1)
    # A one has less ink than a zero.
    assert pictures[labels == 1].mean() < pictures[labels == 0].mean()
