import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.tiles import Rule
from sparsecc.errors import BackendError
from sparsecc.search.attentions import PlanOnline
from sparsecc.torch.online_attention import OnlineAttention, Steps
from sparsecc.torch.tile_kernels import attend, gradients
from tests.backends.cuda.cases import BOUNDS, Case

pytest.importorskip("triton")

PLAIN = Case(
    batch=1,
    heads=2,
    group=1,
    queries=200,
    keys=200,
    features=64,
    dtype="float16",
    tile_rows=64,
    arch="sm_90",
    rule=Rule(),
    kept=None,
    block=(64, 64),
    ordered=False,
    scale=0.125,
    seed=0,
)


@st.composite
def cases(draw, most=300):
    ordered = draw(st.booleans())
    queries = draw(st.integers(1, most))
    keys = queries if ordered else draw(st.integers(1, most))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    heads = group * draw(st.integers(1, 2))
    block = draw(st.sampled_from([(64, 64), (32, 32), (64, 32), (128, 128), (96, 64)]))
    kept = None
    if draw(st.booleans()):
        patterns = draw(st.sampled_from([1, heads]))
        shape = patterns, -(-queries // block[0]), -(-keys // block[1])
        chance = draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
        kept = np.random.default_rng(draw(st.integers(0, 99))).random(shape) < chance
    far = st.one_of(st.just(Rule().left), st.integers(-20, 200))
    return Case(
        batch=draw(st.integers(1, 2)),
        heads=heads,
        group=group,
        queries=queries,
        keys=keys,
        features=draw(st.sampled_from([64, 128])),
        dtype=draw(st.sampled_from(["float16", "bfloat16"])),
        tile_rows=128 if ordered else draw(st.sampled_from([64, 128])),
        arch=draw(st.sampled_from(["sm_80", "sm_90"])),
        rule=Rule(draw(far), draw(far), draw(st.integers(0, 40))),
        kept=kept,
        block=block,
        ordered=ordered,
        scale=draw(st.sampled_from([0.125, 0.088, 1.0])),
        seed=draw(st.integers(0, 99)),
    )


def check(case):
    tensors, out, lse = case.run()
    expected, sums = case.expected(*tensors)
    assert np.abs(out - expected).max() <= BOUNDS[case.dtype] * max(1, np.abs(expected).max())
    nothing = np.isneginf(sums)
    assert np.array_equal(np.isneginf(lse), nothing)
    assert np.abs(lse[~nothing] - sums[~nothing]).max(initial=0) <= 1e-4
    assert not out[nothing].any()


def check_gradients(case):
    tokens, made = case.gradients()
    for got, wanted in zip(made, case.expected_gradients(*tokens), strict=True):
        assert got.shape == wanted.shape
        error = (got.double() - wanted).abs().max()
        assert error <= BOUNDS[case.dtype] * max(1, wanted.abs().max())


@given(cases(most=150))
def test_gradients_are_those_of_float64(case):
    check_gradients(case)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_any_scale(scale):
    check(dataclasses.replace(PLAIN, scale=scale))


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_gradients_of_any_scale_over_rows_and_columns_of_several_tiles(scale):
    kept = np.random.default_rng(0).random((2, 5, 6)) < 0.5
    case = dataclasses.replace(PLAIN, heads=4, group=2, queries=260, keys=330, kept=kept)
    check_gradients(dataclasses.replace(case, scale=scale))


@given(cases())
def test_is_the_attention_of_float64(case):
    check(case)


@pytest.mark.parametrize("rule", [Rule(right=0), Rule(70, 0, 5), Rule(70, 70)])
def test_rules(rule):
    check(dataclasses.replace(PLAIN, rule=rule, tile_rows=128))


def test_a_head_that_keeps_nothing_gives_zeros():
    kept = np.ones((2, 4, 4), bool)
    kept[1] = False
    kept[0, 2] = False
    check(dataclasses.replace(PLAIN, kept=kept))


def test_heads_that_are_not_listed_stay_as_they_were():
    tiles = PLAIN.tiles()
    rows = np.arange(tiles.down, 2 * tiles.down, dtype=np.int32)[::-1]
    tensors, out, lse = PLAIN.run(rows)
    assert np.isnan(out[:, 0]).all()
    assert np.isnan(lse[:, 0]).all()
    assert np.abs(out - PLAIN.expected(*tensors)[0])[:, 1].max() <= BOUNDS["float16"]


@pytest.mark.parametrize(("arch", "features"), [("sm_80", 128), ("sm_90", 128), ("sm_80", 64)])
def test_takes_the_lists_of_a_search(arch, features):
    """They are longer than their tiles; on sm_80 the end of the keys cuts halves of blocks."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 200, features).half()
    online = PlanOnline(steps=3, full=0, searches=(0,), sparsity=0.6)
    searching = OnlineAttention(2, 200, features, online, words=(3, 0), arch=arch)
    Steps(searching)
    wanted = searching(q, k, v)
    assert searching.starts[-1] < len(searching.at) - 1

    def start(kernel, grid, given):
        interpret(kernel, arch, grid, given)

    made = torch.full_like(q, math.nan), torch.full(q.shape[:3], math.nan)
    out, _ = attend(start, arch, (q, k, v), searching.listed(), features**-0.5, made)
    assert (out - wanted).abs().max() <= BOUNDS["float16"] * wanted.abs().max()


def test_lists_of_a_search_have_no_gradients():
    case = PLAIN.listed()
    listed = dataclasses.replace(case, columns=[])
    q = torch.zeros(1, 2, 200, 64).half()
    tokens = dict.fromkeys(("Q", "K", "V", "Out", "Grad"), q)
    with pytest.raises(BackendError, match="no gradients of attention whose blocks are searched"):
        gradients(print, "sm_90", tokens, q[..., 0].float(), listed, 0.1)
