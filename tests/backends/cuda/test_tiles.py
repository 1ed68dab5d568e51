import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.tiles import Rule, pack
from sparsecc.errors import PlanError
from sparsecc.ops.block_sparse_attention import seen_by_blocks, seen_by_rule

BLOCKS = [(64, 64), (32, 32), (64, 128), (96, 32), (128, 128)]


def unpacked(tiles):
    """Which scores the tiles hold, pair by pair, as the kernel reads them."""
    seen = np.zeros((tiles.heads, tiles.queries, tiles.keys), bool)
    ruled = seen_by_rule(
        tiles.queries, tiles.keys, tiles.rule.left, tiles.rule.right, tiles.rule.sinks
    )
    for row in range(len(tiles.full)):
        head, down = divmod(row, tiles.down)
        for place in range(tiles.starts[row], tiles.starts[row + 1]):
            i = np.arange(down * tiles.rows, min((down + 1) * tiles.rows, tiles.queries))
            j = np.arange(tiles.columns) + tiles.at[place] * tiles.columns
            part = np.ones((len(i), len(j)), bool)
            if place >= tiles.full[row]:
                real = j < tiles.keys
                j, part = j[real], part[:, real]
                square = (i % tiles.rows // tiles.grain)[:, None] * (tiles.columns // tiles.grain)
                bit = square + j % tiles.columns // tiles.grain
                part = (tiles.bits[place] >> bit) & 1 == 1
                part &= ruled[np.ix_(i, j)]
            assert not seen[head][np.ix_(i, j)].any()  # no tile twice
            seen[head][np.ix_(i, j)] |= part
    return seen


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([(64, 64), (128, 64), (128, 32), (64, 32), (128, 128)]),
    st.sampled_from(BLOCKS),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.sampled_from([Rule(), Rule(right=0), Rule(100, 30), Rule(50, 0, 10), Rule(-30, 90)]),
    st.integers(0, 99),
)
def test_unpacked_tiles_hold_what_was_kept(queries, keys, tile, block, heads, share, rule, seed):
    shape = heads, -(-queries // block[0]), -(-keys // block[1])
    kept = np.random.default_rng(seed).random(shape) < share
    tiles = pack(queries, keys, tile, kept=kept, block=block, rule=rule)
    wanted = seen_by_rule(queries, keys, rule.left, rule.right, rule.sinks) & seen_by_blocks(
        np.flatnonzero(kept), [*shape, *block], queries, keys
    )
    assert np.array_equal(unpacked(tiles), wanted)
    ours = listed(tiles.starts, tiles.full, tiles.at, tiles.bits, tiles.down)
    turned = listed(*tiles.by_keys(), tiles.across)
    assert sorted((pattern, i, j, *rest) for pattern, j, i, *rest in turned) == sorted(ours)


def listed(starts, full, at, bits, along):
    """Pattern, row, place along it, whether partial, and squares of each tile."""
    assert len(full) == len(starts) - 1
    assert len(at) == len(bits) == starts[-1] + 1
    return [
        (*divmod(row, along), at[place], place >= full[row], bits[place])
        for row in range(len(full))
        for place in range(starts[row], starts[row + 1])
    ]


def test_what_is_kept_whole_needs_no_masks():
    tiles = pack(512, 512, (128, 64), kept=np.ones((2, 8, 8), bool))
    assert np.array_equal(tiles.full, tiles.starts[1:])
    assert tiles.share == 1


def test_a_causal_rule_masks_the_diagonal_alone():
    tiles = pack(512, 512, (128, 64), rule=Rule(right=0))
    assert (tiles.starts[1:] - tiles.full == 2).all()
    assert (tiles.full - tiles.starts[:-1]).tolist() == [0, 2, 4, 6]


def test_heavy_rows_come_first():
    tiles = pack(512, 512, (128, 64), rule=Rule(right=0))
    assert tiles.order(2).tolist() == [3, 7, 2, 6, 1, 5, 0, 4]


@pytest.mark.parametrize(
    ("kept", "block", "said"),
    [
        ((2, 3, 4), (64, 64), "do not cover"),
        ((0, 4, 4), (64, 64), "do not cover"),
        ((1, 32, 32), (8, 8), "squares"),
    ],
)
def test_blocks_that_do_not_fit(kept, block, said):
    with pytest.raises(PlanError, match=said):
        pack(256, 256, (128, 64), kept=np.ones(kept, bool), block=block)
