"""Every form of sparse weights: packed and back, and multiplied by, beside float64."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from sparsecc.backends.cuda import steps
from sparsecc.backends.cuda.forms import columns
from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.kernel import DTYPES
from sparsecc.backends.cuda.recipe import run, tensor_of
from sparsecc.backends.cuda.rows.bitmap import bitmap_shared
from sparsecc.backends.cuda.rows.groups import FEW
from sparsecc.backends.cuda.rows.two_of_four import two_of_four_shared
from sparsecc.errors import BackendError
from tests.backends.cuda.weights import HOLDS, weight_of

pytest.importorskip("triton")

STEP_OF = {"float16": 2.0**-11, "bfloat16": 2.0**-7}
"""Rounding of a number, relative; the interpreter cuts bfloat16 instead."""


@pytest.fixture(scope="module", autouse=True)
def small_layers_are_split():
    """Layers of tests are too small to be worth a launch that adds their parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "WORTH_BYTES", 1)
        yield


@st.composite
def cases(draw):
    form = draw(st.sampled_from(list(FORMS)))
    return (
        form,
        draw(st.integers(1, 150)),
        draw(st.integers(1, 300)),
        draw(st.sampled_from([1, 2, 3, 8, 16, 17, 32, 70])),
        draw(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0])),
        draw(st.sampled_from(list(DTYPES))),
        draw(st.sampled_from(["sm_80", "sm_90"])),
        draw(st.integers(0, 99)),
    )


def check(form, rows, columns, tokens, density, dtype, arch, seed):
    """Fresh random inputs; everything that is written holds NaN before."""
    weight = weight_of(form, rows, columns, density, seed)
    columns = weight.shape[1]
    packed = FORMS[form].pack(weight, dtype)
    held = FORMS[form].unpack(packed)
    kind = getattr(torch, dtype)
    torch.manual_seed(seed)
    x = torch.randn(tokens, columns).to(kind)
    tensors = {name: tensor_of(array) for name, array in packed.arrays.items()}
    out = torch.full((tokens, rows), math.nan, dtype=kind)
    product = Product(rows, columns, packed.sizes, tokens, dtype, arch)
    run(
        FORMS[form].recipe(product),
        tensors | {"X": x, "Out": out},
        lambda kernel, grid, arguments: interpret(kernel, arch, grid, arguments),
        lambda shape, **how: torch.full(shape, math.nan, **how),
    )
    wanted = x.double().numpy() @ held.astype(np.float64).T
    size = np.abs(x.double().numpy()) @ np.abs(held.astype(np.float64)).T
    bound = STEP_OF[dtype] * np.abs(wanted) + 2.0**-20 * size + 1e-7
    if not FORMS[form].exact and tokens > FEW:  # codes are made weights of the type of X
        bound += STEP_OF[dtype] * size
    assert (np.abs(out.double().numpy() - wanted) <= bound).all()


@given(cases())
def test_is_the_product_of_float64(case):
    check(*case)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 16, 130])
def test_is_split_along_long_columns(form, tokens):
    check(form, 64, 2500, tokens, 0.3, "float16", "sm_90", 0)


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_packs_and_unpacks(form, data):
    rows, columns = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 300))
    density = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    weight = weight_of(form, rows, columns, density, data.draw(st.integers(0, 99)))
    packed = FORMS[form].pack(weight, dtype)
    assert set(packed.arrays) == set(FORMS[form].arrays)
    assert set(packed.sizes) == set(FORMS[form].sizes)
    held = FORMS[form].unpack(packed)
    assert held.shape == weight.shape
    assert HOLDS[form](weight, held, dtype)
    again = FORMS[form].pack(held, dtype)
    assert all(np.array_equal(again.arrays[name], packed.arrays[name]) for name in packed.arrays)


def test_weights_that_do_not_fit():
    with pytest.raises(BackendError, match="float32 weights"):
        FORMS["columns"].pack(np.ones((2, 2)), "float32")
    with pytest.raises(BackendError, match="no finite float16: the largest is 1e"):
        FORMS["columns"].pack(np.full((2, 2), 1e6), "float16")
    with pytest.raises(BackendError, match=r"\[1, 65537\] has more than 65536 columns"):
        FORMS["columns"].pack(np.ones((1, 65537)), "float16")


def test_tiles_are_of_the_blocks_that_are_there():
    draws = np.random.default_rng(0)
    for block, tile in ((16, 16), (32, 16), (64, 64), (4, 16)):
        kept = draws.random((256 // block, 1, 128)) < 0.2
        weight = np.broadcast_to(kept, (256 // block, block, 128)).reshape(256, 128)
        packed = FORMS["columns"].pack(weight.astype(float), "float16")
        assert packed.sizes["tile"] == tile


def test_bits_of_two_of_four_lie_as_those_of_cutlass():
    """Which torch computes for its own sparse tensors, on any device."""
    weight = weight_of("2:4", 96, 192, 1.0, 0)
    packed = FORMS["2:4"].pack(weight, "float16")
    of_torch = torch.from_numpy(weight).half().contiguous()
    values, bits = sparse_semi_structured_from_dense_cutlass(of_torch)
    words = bits.numpy().view(np.int32).reshape(192 // 32, 96 // 32, 32)
    ours = packed.arrays["Bits"].reshape(-1, 192 // 32, 32)[: 96 // 32]
    assert np.array_equal(ours, words.swapaxes(0, 1))
    held = packed.arrays["Values"][: 96 // 16]  # strip, turn, half, row, place, across, down, pair
    rows = held.transpose(0, 6, 3, 1, 2, 5, 4, 7).reshape(96, -1)
    assert np.array_equal(rows, values.numpy())


def test_a_weight_that_is_not_two_of_four():
    weight = weight_of("2:4", 40, 64, 1.0, 0)
    weight[17, 8:11] = 1
    with pytest.raises(BackendError, match=r"\[40, 64\] is not 2:4: row 17 .* columns 8 to 11"):
        FORMS["2:4"].pack(weight, "float16")


@pytest.mark.parametrize("stages", [2, 3, 6])
@pytest.mark.parametrize(
    ("form", "shared"),
    [("bitmap", functools.partial(bitmap_shared, values=512)), ("2:4", two_of_four_shared)],
)
def test_turns_under_way_change_nothing(form, shared, stages):
    weight = weight_of(form, 70, 500, 0.3, 0)
    packed = FORMS[form].pack(weight, "float16")
    given = {name: tensor_of(array) for name, array in packed.arrays.items()}
    given["X"] = torch.randn(9, 500).half()
    product = Product(70, 500, packed.sizes, 9, "float16", "sm_80")
    step = FORMS[form].recipe(product).steps[0]
    tokens = step.kernel.constants["TOKENS"]
    how = dataclasses.replace(
        step.kernel.launch("sm_80"), stages=stages, shared=shared(tokens, stages)
    )
    made = []
    for kernel in (step.kernel, dataclasses.replace(step.kernel, launches={"sm_80": how})):
        out, parts = torch.full((9, 70), math.nan).half(), torch.full((1,), math.nan)
        every = given | {"Out": out, "Parts": parts, "splits": 1}
        arguments = {
            name: every[each] if isinstance(each, str) else each
            for name, each in (step.given | {"splits": 1}).items()
        }
        interpret(kernel, "sm_80", (*step.grid[:2], 1), arguments)
        made.append(out)
    assert torch.equal(*made)
    assert made[0].isfinite().all()


@pytest.mark.parametrize("tokens", [5, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_of_few_tokens_are_turned_for_large_layers(tokens, dtype, monkeypatch):
    monkeypatch.setattr(columns, "LOOKED_UP", 0)
    check("columns", 100, 700, tokens, 0.4, dtype, "sm_90", 1)


def test_only_what_reads_much_is_split(monkeypatch):
    monkeypatch.setattr(steps, "WORTH_BYTES", 2**17)
    launches = {
        side: len(FORMS["dense"].recipe(Product(side, side, {}, 8, "float16", "sm_90")).steps)
        for side in (512, 1024, 4096)
    }
    assert launches == {512: 1, 1024: 1, 4096: 2}
