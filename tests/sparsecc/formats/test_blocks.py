from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.formats.blocks import count_blocks, pack_blocks, unpack_blocks

BLOCKS = st.sampled_from([(1, 1), (4, 1), (8, 1), (16, 1), (1, 4), (1, 8), (2, 3)])


def sparse_matrix(rows: int, cols: int, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    return weight * (rng.random((rows, cols)) < density)


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    block=BLOCKS,
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    keep_zeros=st.booleans(),
    seed=st.integers(0, 99),
)
def test_unpack_inverts_pack(rows, cols, block, density, keep_zeros, seed) -> None:
    weight = sparse_matrix(rows, cols, density, seed)
    packed = pack_blocks(weight, block, keep_zeros=keep_zeros)
    assert np.array_equal(unpack_blocks(packed), weight)
    assert packed.values.shape == (len(packed.index), block[0] * block[1])
    assert np.all(np.diff(packed.index) > 0)
    if keep_zeros:
        assert len(packed.index) == packed.grid[0] * packed.grid[1]
    else:
        assert len(packed.index) == count_blocks(weight != 0, block)
        assert np.all(np.any(packed.values != 0, axis=1))


def test_a_convolution_keeps_its_logical_shape() -> None:
    weight = sparse_matrix(6, 18, 0.3, 0).reshape(6, 3, 3, 2)
    packed = pack_blocks(weight, (4, 1))
    assert packed.grid == (2, 18, 4, 1)
    assert packed.shape == (6, 3, 3, 2)
    assert np.array_equal(unpack_blocks(packed), weight)


def test_density_and_bytes_count_stored_blocks() -> None:
    weight = np.zeros((8, 4), np.float32)
    weight[0:4, 1] = 1
    packed = pack_blocks(weight, (4, 1))
    assert packed.density == 1 / 8
    assert packed.nbytes == 4 * 4 + 4


@pytest.mark.parametrize("block", [(0, 1), (1, 0)])
def test_a_block_has_sides(block) -> None:
    with pytest.raises(ValueError, match="empty side"):
        pack_blocks(np.ones((2, 2), np.float32), block)
