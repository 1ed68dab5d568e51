"""Codes are found again in what they were multiplied to, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.formats.codes import (
    Codes,
    dequantized,
    find_codes,
    largest_code,
    pack_codes,
    round_to_codes,
    unpack_codes,
)


def drawn(bits: int, shape: tuple[int, ...], group: int, seed: int) -> Codes:
    """Any codes, rows of zeros among them, and scales over many magnitudes."""
    rng, (*lead, columns) = np.random.default_rng(seed), shape
    most = largest_code(bits)
    codes = rng.integers(-most - 1, most + 1, shape).astype(np.int8)
    codes[rng.random(lead) < 0.2] = 0
    scales = np.exp(rng.normal(0, 5, (*lead, -(-columns // group)))).astype(np.float32)
    return Codes(codes, scales, group, bits)


@given(
    bits=st.sampled_from([4, 8]),
    rows=st.integers(1, 40),
    columns=st.integers(1, 8).map(lambda n: 16 * n),
    group=st.sampled_from([None, 16, 32, 64]),
    seed=st.integers(0, 9999),
)
def test_what_was_multiplied_is_found_to_the_last_bit(
    bits: int, rows: int, columns: int, group: int | None, seed: int
) -> None:
    coded = drawn(bits, (2, rows, columns), group or columns, seed)
    weight = dequantized(coded)
    found = find_codes([weight])
    assert found is not None
    assert dequantized(found[0]).tobytes() == weight.tobytes()
    assert found[0].bits <= bits


def test_weights_have_the_same_group() -> None:
    weights = [dequantized(drawn(8, (3, 16, 128), group, 0)) for group in (64, 32)]
    found = find_codes(weights)
    assert found is not None
    assert [each.group for each in found] == [32, 32]


@pytest.mark.parametrize("spoilt", [1.0001, np.nan, np.inf])
def test_one_other_number_and_there_are_no_codes(spoilt: float) -> None:
    coded = drawn(8, (4, 32, 64), 64, 1)
    weight, at = dequantized(coded), tuple(np.argwhere(np.abs(coded.codes) == 3)[-1])
    weight[at] *= np.float32(spoilt)
    assert find_codes([weight]) is None


def test_numbers_are_no_codes() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 32, 64), np.float32)
    assert find_codes([weight]) is None


@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([None, 16, 32]),
    seed=st.integers(0, 9999),
)
def test_rounding_loses_no_more_than_the_plain_scale(
    bits: int, group: int | None, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_t(4, (6, 80)).astype(np.float32)
    weight[2] = 0
    coded = round_to_codes(weight, bits, group)
    at = np.arange(80) // (group or 80)
    parts = [np.abs(weight[:, at == part]).max(axis=1) for part in range(at[-1] + 1)]
    scales = np.stack(parts, axis=1) / largest_code(bits)
    step = np.where(scales > 0, scales, 1)[:, at]
    plain = np.rint(weight / step) * step
    assert np.abs(coded.codes.astype(int)).max() <= largest_code(bits) + 1
    lost = np.square(dequantized(coded) - weight).sum()
    assert lost <= np.square(plain - weight).sum() * (1 + 1e-5)


@given(
    bits=st.sampled_from([4, 8]),
    columns=st.integers(1, 6).map(lambda n: 16 * n),
    keep_zeros=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_packed_codes_are_these_codes(bits: int, columns: int, keep_zeros: bool, seed: int) -> None:
    coded = drawn(bits, (48, columns), columns, seed)
    coded.codes[16:32, :4] = 0
    packed, scales = pack_codes(coded, bits=bits, keep_zeros=keep_zeros)
    assert packed.values.shape == (len(packed.index), 16)
    unpacked = unpack_codes(packed, scales, bits=bits, group=coded.group)
    np.testing.assert_array_equal(unpacked, dequantized(coded))
    np.testing.assert_array_equal(scales[1, 0], coded.scales[16:32, 0])
    assert (len(packed.index) < 3 * packed.grid[1]) == (not keep_zeros)
