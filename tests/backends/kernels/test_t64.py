"""Steps whose tokens lie in the lanes, on every instruction set, against numpy in float64.

The lanes without a token hold NaN on the way in: none of it may come out in another lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import ops
from sparsecc.backends.codegen.code_table import Pattern
from sparsecc.backends.kernels.attention import CONSTANT, ROWS, Attention
from sparsecc.backends.kernels.step_harness import (
    PLAIN,
    T64,
    TOKEN_KINDS,
    Array,
    Step,
    Tensor,
    from_t64,
    run_outputs,
    to_t64,
)
from tests.backends.kernels import attention_cases
from tests.backends.kernels import test_transformer_steps as rows
from tests.backends.kernels.test_transformer_steps import (
    EXAMPLES,
    SEEDS,
    TOLERANCE,
    Floats,
    activated,
    bits,
    normal,
    packed_constants,
    tensors,
)

command = rows.command
sanitized = rows.sanitized

BLOCKS = ((4, 1), (4, 1), (8, 1), (16, 1), (2, 1), (1, 4), (4, 4), (1, 1), (1, 1))
LEADING = st.one_of(
    st.tuples(st.integers(1, 140)),
    st.tuples(st.integers(1, 3), st.integers(1, 70)),
    st.sampled_from([(64,), (1, 128), (2, 64), (3, 65), (1, 2, 33)]),
)
FEATURES = st.integers(16, 90)


def run(
    command: Sequence[str],
    kind: str,
    attributes: Sequence[int],
    constants: Sequence[Array],
    inputs: Sequence[Floats],
    plain: Sequence[Floats] = (),
    patterns: Sequence[Pattern] = (),
) -> Floats:
    """The output of a step in layout T64; an odd number of elements runs it backwards."""
    told = [*(to_t64(x, np.nan) for x in inputs), *(Tensor(x, x.shape) for x in plain)]
    backwards = inputs[0].size % 2 == 1
    step = Step(kind, attributes, constants, told, backwards, kinds=TOKEN_KINDS, patterns=patterns)
    (out,) = run_outputs(step, command)
    assert out.layout == T64
    return from_t64(out)


def check_turning(command: Sequence[str], seed: int, leading: tuple[int, ...], width: int) -> None:
    x = normal(np.random.default_rng(seed), *leading, width)
    there = Step("to_t64", [], [], [Tensor(x, x.shape)], seed % 2 == 1, kinds=TOKEN_KINDS)
    (turned,) = run_outputs(there, command)
    assert (turned.dims, turned.layout) == (x.shape, T64)
    np.testing.assert_array_equal(from_t64(turned), x)
    back = Step("from_t64", [], [], [to_t64(x, np.nan)], seed % 2 == 1, kinds=TOKEN_KINDS)
    (again,) = run_outputs(back, command)
    assert (again.dims, again.layout) == (x.shape, PLAIN)
    np.testing.assert_array_equal(again.data.reshape(x.shape), x)


def test_turning_there_and_back_changes_nothing(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SEEDS, LEADING, FEATURES)
    def holds(seed: int, leading: tuple[int, ...], width: int) -> None:
        check_turning(command, seed, leading, width)

    holds()


# ---- matmul ----
Matmul = tuple[int, Floats, tuple[int, int], Floats, list[Floats]]


@st.composite
def matmuls(draw: st.DrawFn) -> Matmul:
    """Activation, weight, its block, bias and inputs."""
    rng = np.random.default_rng(draw(SEEDS))
    outputs, depth, leading = draw(FEATURES), draw(FEATURES), draw(LEADING)
    block, density = draw(st.sampled_from(BLOCKS)), draw(st.sampled_from([0.0, 0.1, 1.0]))
    kept = rng.random([-(-outputs // block[0]), -(-depth // block[1])]) < density
    mask = np.kron(kept, np.ones(block))[:outputs, :depth]
    weight = (normal(rng, outputs, depth) * mask).astype(np.float32)
    inputs = [normal(rng, *leading, depth)]
    if draw(st.booleans()):
        inputs.append(normal(rng, *leading, outputs))
    activation = draw(st.integers(0, len(ops.ACTIVATIONS) - 1))
    return activation, weight, block, normal(rng, outputs), inputs


def check_matmul(command: Sequence[str], case: Matmul) -> None:
    """A weight without blocks has code of its own on the instruction set that code is for."""
    activation, weight, block, bias, inputs = case
    values, index, *sizes = packed_constants(weight, block)
    patterns = [Pattern(index.astype(np.int32), *weight.shape)] if block == (1, 1) else []
    constants = [values, index, *sizes, bias]
    got = run(command, "matmul", [activation, 1], constants, inputs, patterns=patterns)
    x, w = inputs[0].astype(np.float64), weight.astype(np.float64)
    sums = x @ w.T + bias + sum(residual.astype(np.float64) for residual in inputs[1:])
    magnitude = (np.abs(x) @ np.abs(w).T).max(initial=1.0)
    want = activated(activation, sums)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * magnitude)


def test_matmul_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(matmuls())
    def holds(case: Matmul) -> None:
        check_matmul(command, case)

    holds()


def test_more_inputs_than_the_cache_holds_go_piece_by_piece(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    weight = normal(rng, 32, 3000) * (rng.random(3000) < 0.05).astype(np.float32)
    check_matmul(command, (5, weight, (4, 1), normal(rng, 32), [normal(rng, 1, 150, 3000)]))


@pytest.mark.parametrize("leading", [(5,), (130,), (2, 70)])
@pytest.mark.parametrize("activation", [0, 1, 5])
def test_code_takes_several_strips_and_chunks(
    command: list[str], leading: tuple[int, ...], activation: int
) -> None:
    rng = np.random.default_rng(0)
    weight = normal(rng, 300, 700) * (rng.random((300, 700)) < 0.3).astype(np.float32)
    x, residual = normal(rng, *leading, 700), normal(rng, *leading, 300)
    check_matmul(command, (activation, weight, (1, 1), normal(rng, 300), [x]))
    check_matmul(command, (activation, weight, (1, 1), normal(rng, 300), [x, residual]))


# ---- attention ----
@st.composite
def attentions(draw: st.DrawFn) -> attention_cases.Laid:
    """Dense attention of rows, which this layout has too."""
    tokens = st.one_of(st.integers(1, 70), st.sampled_from([64, 128, 129, 197]))
    dense = attention_cases.dense(tokens, st.sampled_from([16, 20, 23, 64]))
    return draw(attention_cases.laid(dense, st.just(ROWS), hides=False, three=True))


def check_attention(command: Sequence[str], case: attention_cases.Laid) -> None:
    step = case.step()
    turned = [to_t64(each.data, np.nan) for each in step.inputs[:3]]
    made = run_outputs(replace(step, inputs=[*turned, *step.inputs[3:]]), command)[0]
    got = case.heads_of(from_t64(made))
    np.testing.assert_allclose(got, case.case.wanted(), rtol=0, atol=3e-5)


def test_attention_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(attentions())
    def holds(case: attention_cases.Laid) -> None:
        check_attention(command, case)

    holds()


def test_a_row_of_masked_keys_is_their_mean(command: list[str]) -> None:
    x = normal(np.random.default_rng(0), 2, 70, 32)
    mask = np.full((1, 1, 1, 70), np.finfo(np.float32).min, np.float32)
    attributes = Attention(2, 2, 16, 0.25, mask=CONSTANT).attributes
    got = run(command, "attention", attributes, [mask], [x] * 3)
    want = np.broadcast_to(x.mean(1, keepdims=True), got.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


# ---- the others ----
def check_layer_norm(
    command: Sequence[str], seed: int, leading: tuple[int, ...], width: int, biased: bool
) -> None:
    rng = np.random.default_rng(seed)
    x, factors = normal(rng, *leading, width) * 10 + 5, [normal(rng, width), normal(rng, width)]
    got = run(command, "layer_norm", [bits(1e-5)], factors[: 1 + biased], [x])
    apart = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    want = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-5) * factors[0]
    want = want + factors[1] if biased else want
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


def test_layer_norm_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SEEDS, LEADING, FEATURES, st.booleans())
    def holds(seed: int, leading: tuple[int, ...], width: int, biased: bool) -> None:
        check_layer_norm(command, seed, leading, width, biased)

    holds()


@pytest.mark.parametrize("activation", range(len(ops.ACTIVATIONS)))
def test_elements(command: list[str], activation: int) -> None:
    rng = np.random.default_rng(activation)
    x, term = normal(rng, 2, 50, 20), normal(rng, 2, 50, 20)
    got = run(command, "activation", [activation], [], [x])
    np.testing.assert_allclose(got, activated(activation, x.astype(np.float64)), rtol=0, atol=2e-6)
    got = run(command, "add", [activation], [], [x, term])
    want = activated(activation, x.astype(np.float64) + term)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


# ---- what is refused ----
def attention_of(attention: Attention, *inputs: Tensor) -> Step:
    return Step("attention", attention.attributes, [], inputs, kinds=TOKEN_KINDS)


THREE = [to_t64(np.zeros((1, 4, 32), np.float32))] * 3
(ROW,) = tensors((1, 4, 32))
BAD_STEPS = {
    "at least 16 features": Step("to_t64", [], [], tensors((4, 15)), kinds=TOKEN_KINDS),
    "tokens in the lanes": Step("from_t64", [], [], tensors((4, 16)), kinds=TOKEN_KINDS),
    "no attributes": Step("to_t64", [1], [], tensors((4, 16)), kinds=TOKEN_KINDS),
    "must lie as one": attention_of(Attention(2, 2, 16, 1.0), THREE[0], THREE[1], ROW),
    "it must be dense": attention_of(Attention(2, 2, 16, 1.0, right=0), *THREE),
    "six features": attention_of(Attention(8, 8, 4, 1.0), *THREE),
    "row-major float32, or": Step(
        "layer_norm", [0], [np.ones(32, np.float32)], THREE[:2], kinds=TOKEN_KINDS
    ),
    "last dimensions": Step("add", [0], [np.ones(32, np.float32)], THREE[:1], kinds=TOKEN_KINDS),
    "features of its weight": Step(
        "matmul",
        [0, 0],
        [*packed_constants(np.ones((32, 32), np.float32), (4, 1)), np.zeros(32, np.float32)],
        THREE[:1],
        kinds=TOKEN_KINDS,
    ),
}


@pytest.mark.parametrize("message", BAD_STEPS)
def test_a_bad_step_is_refused(sanitized: list[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_outputs(BAD_STEPS[message], sanitized)


def test_a_residual_of_another_layout_is_refused(sanitized: list[str]) -> None:
    good = BAD_STEPS["features of its weight"]
    bad = replace(good, attributes=[0, 1], inputs=[THREE[0], *tensors((1, 4, 32))])
    with pytest.raises(RuntimeError, match="residual"):
        run_outputs(bad, sanitized)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(matmuls(), attentions(), SEEDS, LEADING, FEATURES)
    def holds(
        matmul: Matmul, case: attention_cases.Laid, seed: int, leading: tuple[int, ...], width: int
    ) -> None:
        check_matmul(sanitized, matmul)
        check_attention(sanitized, case)
        check_turning(sanitized, seed, leading, width)
        check_layer_norm(sanitized, seed, leading, width, biased=True)

    holds()
