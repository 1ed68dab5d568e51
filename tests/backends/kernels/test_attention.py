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
        ordered=not hides,
    )
    assert read(made.attributes) == made


@given(
    *(st.integers(1, 150), st.integers(1, 3), DIMS, st.sampled_from([ROWS, HEADS_FIRST])),
    st.booleans(),
    st.integers(0, 99),
)
def test_an_order_of_tokens_is_that_of_what_is_read_and_written(
    command: list[str], tokens: int, heads: int, dim: int, layout: int, blocked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = (tokens, heads * dim) if layout == ROWS else (heads, tokens, dim)
    given_tokens = [rng.standard_normal((2, *rows), np.float32) for _ in range(3)]
    order, axis = rng.permutation(tokens), 1 + (layout == HEADS_FIRST)
    plain = Attention(heads, heads, dim, dim**-0.5, (layout,) * 4, hides=True)
    constants: list[Array] = []
    if blocked:
        side = -(-tokens // 64)
        kept = np.flatnonzero(rng.random(side * side) < 0.7).astype(np.int32)
        constants = [kept, np.array([1, side, side, 64, 64])]
        plain = replace(plain, blocks=CONSTANT)
    gathered = [np.ascontiguousarray(x.take(order, axis)) for x in given_tokens]
    ordered = replace(plain, ordered=True)
    wanted = result(command, step_of(plain, constants, tensors(*gathered)))
    got = result(command, step_of(ordered, [*constants, order], tensors(*given_tokens)))
    np.testing.assert_array_equal(got.take(order, axis), wanted)


# ---- what is refused ----
def tensors(*arrays: Array) -> list[Tensor]:
    return [Tensor(array, array.shape) for array in arrays]


def of_shapes(*shapes: tuple[int, ...]) -> list[Tensor]:
    return tensors(*(np.zeros(shape, np.float32) for shape in shapes))


ROW = of_shapes(*[(1, 4, 8)] * 3)
PLAIN = Attention(2, 2, 4, 1.0)
KEPT = replace(PLAIN, blocks=CONSTANT)
INDEX, GRID = np.array([0, 3], np.int32), np.array([1, 2, 2, 2, 2], np.int64)


def step_of(
    attention: Attention, constants: Sequence[Array] = (), inputs: Sequence[Tensor] = ROW
) -> Step:
    return Step("attention", attention.attributes, constants, inputs, kinds=TOKEN_KINDS)


def changed(place: int, value: int) -> Step:
    attributes = list(PLAIN.attributes)
    attributes[place] = value
    return Step("attention", attributes, [], ROW, kinds=TOKEN_KINDS)


BAD_STEPS = {
    "heads do not fit": step_of(replace(PLAIN, offsets=(1, 0, 0))),
    "at most 256": step_of(Attention(1, 1, 257, 1.0)),
    "no multiple": step_of(Attention(3, 2, 2, 1.0)),
    "as many keys as values": step_of(PLAIN, (), [*ROW[:2], *of_shapes((1, 5, 8))]),
    "different batch": step_of(PLAIN, (), [*ROW[:2], *of_shapes((2, 4, 8))]),
    "of three dimensions": step_of(
        replace(PLAIN, layouts=(TOKENS_FIRST,) * 4), (), of_shapes(*[(4, 8)] * 3)
    ),
    "those of .batch, heads": step_of(
        replace(PLAIN, layouts=(HEADS_FIRST,) * 4), (), of_shapes(*[(1, 1, 4, 4)] * 3)
    ),
    "those of .batch, heads, tokens": step_of(
        replace(PLAIN, layouts=(HEADS_FIRST,) * 4, offsets=(2, 0, 0)),
        (),
        of_shapes(*[(1, 3, 4, 4)] * 3),
    ),
    "there are no keys": step_of(PLAIN, (), [ROW[0], *of_shapes((1, 0, 8), (1, 0, 8))]),
    "mask does not fit": step_of(replace(PLAIN, mask=INPUT), (), [*ROW, *of_shapes((1, 1, 4, 3))]),
    "not those that its attributes speak of": step_of(replace(PLAIN, mask=INPUT)),
    "a row of int32": step_of(KEPT, [INDEX.astype(np.int64), GRID]),
    "five numbers of int64": step_of(KEPT, [INDEX, GRID[:4]]),
    "do not ascend": step_of(KEPT, [INDEX[::-1].copy(), GRID]),
    "blocks of no size": step_of(KEPT, [INDEX, np.array([1, 2, 2, 0, 2], np.int64)]),
    "beyond 32 bits": step_of(KEPT, [INDEX, np.array([1, 2, 2**40, 2, 2], np.int64)]),
    "more blocks than": step_of(KEPT, [INDEX, np.array([9, 2**20, 2**20, 2, 2], np.int64)]),
    "do not cover": step_of(KEPT, [INDEX, np.array([1, 2, 3, 2, 2], np.int64)]),
    "another number of heads": step_of(KEPT, [INDEX, np.array([3, 2, 2, 2, 2], np.int64)]),
    "every token once": step_of(replace(PLAIN, ordered=True), [np.array([0, 1, 1, 3])]),
    "order must be a row of int64": step_of(replace(PLAIN, ordered=True), [INDEX]),
    "order is of another number": step_of(replace(PLAIN, ordered=True), [np.arange(3)]),
    "order goes with neither": step_of(replace(PLAIN, ordered=True, right=0), [np.arange(4)]),
    "eighteen attributes": Step("attention", [2, 4, 0], [], ROW, kinds=TOKEN_KINDS),
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
    step = step_of(replace(PLAIN, blocks=INPUT), [GRID], [*ROW, *given])
    with pytest.raises(RuntimeError, match="do not ascend inside the grid"):
        run_outputs(step, sanitized)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(sparse(), DENSE)
    def holds(case: Laid, full: Laid) -> None:
        check(sanitized, case)
        check(sanitized, full)

    holds()
