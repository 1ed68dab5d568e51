"""Codes of four bits: given ones come back, rows are cut evenly, what is not kept is not read."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.forms import codes4, groups
from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.forms.codes import Coded, dequantized, quantized
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.recipe import run, tensor_of
from sparsecc.errors import BackendError
from sparsecc.formats.patterns import Pattern, mask_from_scores
from sparsecc.torch import SparseLinear

pytest.importorskip("triton")


def codes_of(rows, columns, group, density, seed):
    """Random codes, with any zeros and scales."""
    draws = np.random.default_rng(seed)
    shape = rows, -(-columns // group)
    return Coded(
        draws.integers(0, 16, (*shape, group), np.uint8),
        (draws.random(shape) + 0.01).astype(np.float16) * (draws.random(shape) < density),
        draws.integers(0, 16, shape, np.uint8),
        columns,
    )


def product(packed, x):
    out = torch.full((len(x), packed.rows), math.nan, dtype=torch.float16)
    run(
        FORMS[packed.form].recipe(
            Product(packed.rows, packed.columns, packed.sizes, len(x), "float16", "sm_90")
        ),
        {name: tensor_of(array) for name, array in packed.arrays.items()} | {"X": x, "Out": out},
        lambda kernel, grid, arguments: interpret(kernel, "sm_90", grid, arguments),
    )
    return out.double().numpy()


@given(
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from([16, 32, 128]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 99),
)
def test_given_codes_come_back(rows, parts, group, density, seed):
    coded = codes_of(rows, 32 * parts, group, density, seed)
    form = codes4 if group == 128 else groups
    assert np.array_equal(form.unpack(form.pack_codes(coded)), dequantized(coded))


@pytest.mark.parametrize(("form", "group"), [(groups, 16), (groups, 32), (codes4, 128)])
def test_given_codes_are_a_layer(form, group):
    coded = codes_of(24, 160, group, 0.5, 0)
    bias = torch.randn(24).bfloat16()
    layer = SparseLinear.of_packed(form.pack_codes(coded), torch.bfloat16, bias)
    x = torch.randn(3, 160).bfloat16()
    wanted = x.double() @ torch.from_numpy(dequantized(coded)).double().T + bias.double()
    assert torch.allclose(layer(x).double(), wanted, rtol=2e-2, atol=2e-2 * wanted.abs().max())
    with pytest.raises(BackendError, match="no kernels for float32"):
        SparseLinear.of_packed(form.pack_codes(coded), torch.float32)


@given(st.integers(1, 90), st.integers(1, 80), st.sampled_from([16, 32, 128]), st.integers(0, 99))
def test_codes_of_codes_are_the_same(rows, columns, group, seed):
    draws = np.random.default_rng(seed)
    weight = draws.standard_normal((rows, columns)) + draws.choice([-3, 0, 3])
    coded = quantized(weight, group)
    again = quantized(dequantized(coded), group)
    for ours, theirs in zip(vars(coded).values(), vars(again).values(), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("pattern", "bits"), [("1x16", 3.0), ("1x32", 2.5)])
def test_holds_what_a_pattern_keeps(pattern, bits):
    weight = np.random.default_rng(0).standard_normal((64, 2048))
    kept = mask_from_scores(np.abs(weight), Pattern.parse(pattern), 0.5)
    packed = groups.pack(weight * kept, "float16")
    held = groups.unpack(packed)
    assert not held[~kept].any()
    assert np.abs(held - weight)[kept].max() <= 0.3
    read = packed.arrays["Codes"].nbytes + packed.arrays["Words"].nbytes
    assert bits <= 8 * read / weight.size <= bits * 1.01


@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-6, 1e-5, 1.0, 4e5])
def test_numbers_of_any_size(size):
    weight = size * np.random.default_rng(0).standard_normal((9, 64)).clip(-1, 1)
    step = max(size / 7, 2.0**-24)
    assert np.abs(dequantized(quantized(weight, 16)) - weight).max() <= step


def test_rows_of_any_length_are_cut_evenly(monkeypatch):
    monkeypatch.setattr(groups, "WARPS", 16)
    draws = np.random.default_rng(0)
    weight = draws.standard_normal((40, 6400))
    density = np.where(np.arange(40) == 17, 1.0, np.arange(40) / 400)
    density[30:33] = 0.5
    weight *= (draws.random((40, 400)) < density[:, None]).repeat(16, 1)
    packed = groups.pack(weight, "float16")
    rows, starts = packed.arrays["Rows"].reshape(-1, 4), packed.arrays["Starts"]
    pieces = np.bincount(rows[rows >= 0])
    assert set(pieces) == {1, 2, 4}
    assert pieces[17] == 4
    owners = [set(np.flatnonzero((rows == row).any(1))) for row in range(40)]
    assert all(len(owner) == 1 for owner in owners)
    lengths = np.diff(starts)
    assert lengths.max() <= groups.UNEVEN * lengths.sum() / 16 + 1
    x = torch.randn(2, 6400).half()
    wanted = x.double().numpy() @ groups.unpack(packed).astype(np.float64).T
    assert np.abs(product(packed, x) - wanted).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("width", [16, 32])
def test_inputs_of_other_groups_are_not_read(width):
    weight = np.zeros((6, 320))
    weight[1, 2 * width : 3 * width] = 1.0
    weight[2, : 3 * width] = 2.0
    x = torch.ones(1, 320).half()
    x[0, : 2 * width] = math.inf
    out = product(groups.pack(weight, "float16"), x)
    assert np.array_equal(out, [[0, width, math.inf, 0, 0, 0]])


def test_what_does_not_fit():
    with pytest.raises(BackendError, match=r"\[2, 40\] has no whole groups of 16"):
        groups.pack(np.ones((2, 40)), "float16")
    with pytest.raises(BackendError, match=r"\[1, 65552\] .* more than 4096"):
        groups.pack(np.ones((1, 65552)), "float16")
    with pytest.raises(BackendError, match="groups of 8 inputs is not packed"):
        groups.pack_codes(codes_of(2, 64, 8, 1, 0))
    with pytest.raises(BackendError, match=r"\[2, 40\] in groups of 128 .* read 32"):
        codes4.pack(np.ones((2, 40)), "float16")
    with pytest.raises(BackendError, match="groups of 32 inputs is not packed"):
        codes4.pack_codes(codes_of(2, 64, 32, 1, 0))
    for form in (groups, codes4):
        with pytest.raises(BackendError, match="float32"):
            form.pack(np.ones((2, 64)), "float32")
        for number in (math.nan, math.inf, 1e6):
            weight = np.zeros((70, 64))
            weight[66, 3] = number
            with pytest.raises(BackendError, match=r"\[70, 64\] .* no float16 .* rows 64 to 69"):
                form.pack(weight, "float16")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codes": np.full((2, 4, 16), 16, np.uint8)}, "more than 4 bits"),
        ({"zeros": np.full((2, 4), 16, np.uint8)}, "more than 4 bits"),
        ({"zeros": np.zeros((2, 3), np.uint8)}, r"scales \[2, 4\] and zeros \[2, 3\]"),
        ({"scales": np.full((2, 4), np.inf, np.float16)}, "no finite float16"),
        ({"columns": 65}, "do not cover 65 columns"),
    ],
)
def test_codes_that_no_word_holds(change, said):
    with pytest.raises(BackendError, match=said):
        Coded(**{**vars(codes_of(2, 64, 16, 1, 0)), **change})
