"""The attention step, on every instruction set, against the meaning of the op in float64.

The executable puts a page without access behind each array, so that these tests also see a read or
a write beyond its end; what lies beside the heads of a row is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.attention import (
    CONSTANT,
    HEADS_FIRST,
    INPUT,
    ROWS,
    TOKENS_FIRST,
    Attention,
    read,
)
from sparsecc.backends.kernels.step_harness import (
    TOKEN_KINDS,
    Array,
    Step,
    Tensor,
    build_token_steps,
    build_token_steps_sanitized,
    run_outputs,
)
from tests.backends.kernels import attention_cases
from tests.backends.kernels.attention_cases import DIMS, TOKENS, Laid, dense, laid, sparse
from tests.backends.kernels.executables import fixtures
from tests.sparsecc.ops.attention_cases import Case

command, sanitized = fixtures(build_token_steps, build_token_steps_sanitized)

EXAMPLES = 40
DENSE = laid(dense(TOKENS, DIMS), hides=False)
FREE = {"left": Attention(1, 1, 1, 1.0).left, "right": Attention(1, 1, 1, 1.0).right, "sinks": 0}


def result(command: Sequence[str], step: Step) -> attention_cases.Floats:
    (made,) = run_outputs(step, command)
    return made.data.astype(np.float32).reshape(made.dims)


def check(command: Sequence[str], case: Laid) -> None:
    got = case.heads_of(result(command, case.step()))
    np.testing.assert_allclose(got, case.case.wanted(), rtol=0, atol=3e-5)


def test_it_is_the_meaning_of_the_op(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(sparse())
    def holds(case: Laid) -> None:
        check(command, case)

    holds()


def test_dense_attention_of_all_layouts(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(DENSE)
    def holds(case: Laid) -> None:
        check(command, case)

    holds()


@pytest.mark.parametrize("block", [16, 64, 128])
def test_blocks_of_common_sizes(command: list[str], block: int) -> None:
    rng = np.random.default_rng(block)
    side, dim = 5, 64
    tokens = side * block - 7
    keep = (rng.random((2, side, side)) < 0.4) | np.eye(side, dtype=bool)
    arrays = {name: rng.standard_normal((1, 2, tokens, dim)) for name in "QKV"}
    arrays["index"] = np.flatnonzero(keep).astype(np.int32)
    arrays["grid"] = np.array([2, side, side, block, block])
    case = Case(arrays, {"scale": 0.125, **FREE})
    check(command, Laid(case, (ROWS,) * 4, (0, 0, 0), False, (True, True), True))


@pytest.mark.parametrize("keys", [20, 300])
def test_a_row_of_masked_keys_is_their_mean(command: list[str], keys: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, keys, 32)).astype(np.float32)
    mask = np.full((1, 1, 1, keys), np.finfo(np.float32).min, np.float32)
    settings = Attention(2, 2, 16, 0.25, mask=CONSTANT)
    step = Step("attention", settings.attributes, [mask], tensors(x, x, x), kinds=TOKEN_KINDS)
    got = result(command, step)
    np.testing.assert_allclose(got, np.broadcast_to(x.mean(1), got.shape), rtol=0, atol=2e-5)


def test_a_query_that_sees_no_key_gives_zeros(command: list[str]) -> None:
    x = np.ones((1, 1, 30, 16), np.float32)
    mask = np.where(np.arange(30)[:, None] % 2, -np.inf, 0).astype(np.float32)
    settings = Attention(1, 1, 16, 0.25, (HEADS_FIRST,) * 4, hides=True, mask=CONSTANT)
    step = Step("attention", settings.attributes, [mask], tensors(x, x, x), kinds=TOKEN_KINDS)
    np.testing.assert_array_equal(result(command, step)[0, 0, :, 0], np.arange(30) % 2 == 0)


def test_there_may_be_no_keys(command: list[str]) -> None:
    case = Case(
        {name: np.ones((1, 2, n, 8)) for name, n in {"Q": 5, "K": 0, "V": 0}.items()},
        {"scale": 1.0, **FREE},
    )
    check(command, Laid(case, (HEADS_FIRST,) * 4, (0, 0, 0), False, (True, True), True))


def test_what_is_no_number_stays_none(command: list[str]) -> None:
    x = np.ones((1, 1, 40, 16), np.float32)
    q = x.copy()
    q[0, 0, 7, 3] = np.nan
    settings = Attention(1, 1, 16, 0.25, (HEADS_FIRST,) * 4, hides=True)
    step = Step("attention", settings.attributes, [], tensors(q, x, x), kinds=TOKEN_KINDS)
    got = result(command, step)[0, 0]
    assert np.isnan(got[7]).all()
    np.testing.assert_allclose(np.delete(got, 7, axis=0), 1, rtol=1e-6)


@given(st.integers(1, 9), st.booleans(), st.integers(0, 2), st.integers(0, 2))
def test_settings_are_read_as_they_are_written(
    heads: int, hides: bool, blocks: int, layout: int
) -> None:
    made = Attention(
        *(2 * heads, heads, 64, 0.125),
        layouts=(layout, ROWS, HEADS_FIRST, TOKENS_FIRST),
        offsets=(1, 2, 3),
        left=-5,
        right=7,
        sinks=2,
        hides=hides,
        blocks=blocks,
        mask=INPUT,
    )
    assert read(made.attributes) == made


# ---- what is refused ----
def tensors(*arrays: Array) -> list[Tensor]:
    return [Tensor(array, array.shape) for array in arrays]


def of_shapes(*shapes: tuple[int, ...]) -> list[Tensor]:
    return tensors(*(np.zeros(shape, np.float32) for shape in shapes))


ROW = of_shapes(*[(1, 4, 8)] * 3)
PLAIN = Attention(2, 2, 4, 1.0)
KEPT = replace(PLAIN, blocks=CONSTANT)
INDEX, GRID = np.array([0, 3], np.int32), np.array([1, 2, 2, 2, 2], np.int64)


def bad(
    attention: Attention, constants: Sequence[Array] = (), inputs: Sequence[Tensor] = ROW
) -> Step:
    return Step("attention", attention.attributes, constants, inputs, kinds=TOKEN_KINDS)


def changed(place: int, value: int) -> Step:
    attributes = list(PLAIN.attributes)
    attributes[place] = value
    return Step("attention", attributes, [], ROW, kinds=TOKEN_KINDS)


BAD_STEPS = {
    "heads do not fit": bad(replace(PLAIN, offsets=(1, 0, 0))),
    "at most 256": bad(Attention(1, 1, 257, 1.0)),
    "no multiple": bad(Attention(3, 2, 2, 1.0)),
    "as many keys as values": bad(PLAIN, (), [*ROW[:2], *of_shapes((1, 5, 8))]),
    "different batch": bad(PLAIN, (), [*ROW[:2], *of_shapes((2, 4, 8))]),
    "of three dimensions": bad(
        replace(PLAIN, layouts=(TOKENS_FIRST,) * 4), (), of_shapes(*[(4, 8)] * 3)
    ),
    "those of .batch, heads": bad(
        replace(PLAIN, layouts=(HEADS_FIRST,) * 4), (), of_shapes(*[(1, 3, 4, 4)] * 3)
    ),
    "there are no keys": bad(PLAIN, (), [ROW[0], *of_shapes((1, 0, 8), (1, 0, 8))]),
    "mask does not fit": bad(replace(PLAIN, mask=INPUT), (), [*ROW, *of_shapes((1, 1, 4, 3))]),
    "not those that its attributes speak of": bad(replace(PLAIN, mask=INPUT)),
    "a row of int32": bad(KEPT, [INDEX.astype(np.int64), GRID]),
    "five numbers of int64": bad(KEPT, [INDEX, GRID[:4]]),
    "do not ascend": bad(KEPT, [INDEX[::-1].copy(), GRID]),
    "blocks of no size": bad(KEPT, [INDEX, np.array([1, 2, 2, 0, 2], np.int64)]),
    "beyond 32 bits": bad(KEPT, [INDEX, np.array([1, 2, 2**40, 2, 2], np.int64)]),
    "more blocks than": bad(KEPT, [INDEX, np.array([9, 2**20, 2**20, 2, 2], np.int64)]),
    "do not cover": bad(KEPT, [INDEX, np.array([1, 2, 3, 2, 2], np.int64)]),
    "another number of heads": bad(KEPT, [INDEX, np.array([3, 2, 2, 2, 2], np.int64)]),
    "seventeen attributes": Step("attention", [2, 4, 0], [], ROW, kinds=TOKEN_KINDS),
    "malformed step": changed(3, 9),
    "column is out of range": changed(7, -1),
    "its rule has a number": changed(12, 2**40),
}


@pytest.mark.parametrize("message", BAD_STEPS)
def test_a_bad_step_is_refused(sanitized: list[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_outputs(BAD_STEPS[message], sanitized)


@pytest.mark.parametrize("index", [[3, 0], [0, 4], [-2], [0, -1, 3], [0, 0], [-1, 0], [2**31 - 1]])
def test_an_index_of_a_call_is_checked(sanitized: list[str], index: list[int]) -> None:
    given = tensors(np.array(index, np.int32))
    step = bad(replace(PLAIN, blocks=INPUT), [GRID], [*ROW, *given])
    with pytest.raises(RuntimeError, match="do not ascend inside the grid"):
        run_outputs(step, sanitized)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(sparse(), DENSE)
    def holds(case: Laid, full: Laid) -> None:
        check(sanitized, case)
        check(sanitized, full)

    holds()
