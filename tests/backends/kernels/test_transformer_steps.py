"""Step kinds of transformers, on every instruction set, against numpy in float64.

The executable puts a page without access behind each array, so that these tests also see a read or
a write beyond its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.kernels.step_harness import (
    TOKEN_KINDS,
    Array,
    Step,
    Tensor,
    build_token_steps,
    build_token_steps_sanitized,
    run_outputs,
)
from sparsecc.formats.blocks import pack_blocks
from tests.backends.kernels.executables import fixtures

Floats = NDArray[np.float32]
EXAMPLES = 15
TOLERANCE = 2e-5
BLOCKS = ((16, 1), (16, 1), (32, 1), (48, 2), (16, 4))
DENSITIES = (0.0, 0.1, 1.0)
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 90)
LEADING = st.one_of(
    st.tuples(st.integers(1, 70)),
    st.tuples(st.integers(1, 3), st.integers(1, 40)),
    st.just((1, 300)),
    st.just(()),
)


command, sanitized = fixtures(build_token_steps, build_token_steps_sanitized)


def bits(value: float) -> int:
    """The float32 as an attribute carries it."""
    return int(np.float32(value).view(np.uint32))


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def run(
    command: Sequence[str],
    kind: str,
    attributes: Sequence[int],
    constants: Sequence[Array],
    inputs: Sequence[Floats],
    outputs: int = 1,
) -> list[Floats]:
    """The outputs of a step in row-major layout; an odd number of elements runs it backwards."""
    tensors = [Tensor(x, x.shape) for x in inputs]
    backwards = inputs[0].size % 2 == 1
    step = Step(kind, attributes, constants, tensors, backwards, 1, outputs, TOKEN_KINDS)
    done = run_outputs(step, command)
    return [out.data.astype(np.float32).reshape(out.dims) for out in done]


def activated(activation: int, x: NDArray[np.float64]) -> NDArray[np.floating]:
    return ops.ACTIVATIONS[activation].meaning(x)


# ---- matmul16 ----
@st.composite
def matmuls(draw: st.DrawFn) -> tuple[list[int], list[Array], list[Floats], Floats]:
    """Attributes, constants and inputs of a matmul, and its weight."""
    rng = np.random.default_rng(draw(SEEDS))
    rows, depth, leading = draw(SIDES), draw(SIDES), draw(LEADING)
    activation = draw(st.integers(0, len(ops.ACTIVATIONS) - 1))
    weight, bias = normal(rng, rows, depth), normal(rng, rows)
    inputs = [normal(rng, *leading, depth)]
    if draw(st.booleans()):
        inputs.append(normal(rng, *leading, rows))
    lies = draw(st.integers(0, 5))
    if lies in (1, 2):
        constants = [weight if lies == 1 else np.ascontiguousarray(weight.T), bias]
        return [activation, lies], constants[: draw(st.integers(1, 2))], inputs, weight
    block, density = draw(st.sampled_from(BLOCKS)), draw(st.sampled_from(DENSITIES))
    kept = rng.random([-(-rows // block[0]), -(-depth // block[1])]) < density
    weight *= np.kron(kept, np.ones(block))[:rows, :depth].astype(np.float32)
    return [activation, 0], [*packed_constants(weight, block), bias], inputs, weight


def packed_constants(weight: Floats, block: tuple[int, int]) -> list[Array]:
    packed = pack_blocks(weight, block)
    values = packed.values.reshape(len(packed.index), block[0] * block[1])
    sizes = (np.array(part, np.int64) for part in (packed.grid, packed.shape))
    return [values, packed.index, *sizes]


def check_matmul(
    command: Sequence[str],
    case: tuple[list[int], list[Array], list[Floats], Floats],
) -> None:
    attributes, constants, inputs, weight = case
    (got,) = run(command, "matmul16", attributes, constants, inputs)
    x, w = (part.astype(np.float64) for part in (inputs[0], weight))
    bias = constants[-1].astype(np.float64) if len(constants) != 1 else 0
    sums = x @ w.T + bias + sum(residual.astype(np.float64) for residual in inputs[1:])
    magnitude = (np.abs(x) @ np.abs(w).T).max(initial=1.0)
    want = activated(attributes[0], sums)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * magnitude)


def test_matmul_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(matmuls())
    def holds(case: tuple[list[int], list[Array], list[Floats], Floats]) -> None:
        check_matmul(command, case)

    holds()


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 28, 29, 57])
def test_every_number_of_tokens_has_its_way(command: list[str], tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    weight = normal(rng, 100, 33)
    check_matmul(command, ([5, 1], [weight, normal(rng, 100)], [normal(rng, tokens, 33)], weight))


def test_deep_weights_take_several_groups_of_panels(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    weight = normal(rng, 40, 5000) * (rng.random(5000) < 0.05).astype(np.float32)
    constants = [*packed_constants(weight, (16, 1)), normal(rng, 40)]
    check_matmul(command, ([0, 0], constants, [normal(rng, 90, 5000)], weight))


# ---- rows and elements ----
SHAPES = st.one_of(
    st.tuples(st.integers(1, 100)),
    st.tuples(st.integers(1, 40), st.integers(1, 100)),
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.sampled_from([1, 16, 17, 63, 64, 768])),
)


@pytest.mark.parametrize("index", [0, 2, 4, -1, -5])
def test_select_takes_one_token(command: list[str], index: int) -> None:
    x = normal(np.random.default_rng(0), 3, 5, 7)
    (got,) = run(command, "select", [index, 0], [], [x])
    np.testing.assert_array_equal(got, x[:, index])


def test_layer_norm_without_bias(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    x, scale, zero = normal(rng, 5, 40), normal(rng, 40), np.zeros(40, np.float32)
    (got,) = run(command, "layer_norm", [bits(1e-5)], [scale], [x])
    (same,) = run(command, "layer_norm", [bits(1e-5)], [scale, zero], [x])
    np.testing.assert_array_equal(got, same)


def check_layer_norm(
    command: Sequence[str], seed: int, shape: tuple[int, ...], inputs: int
) -> None:
    rng = np.random.default_rng(seed)
    terms = [normal(rng, *shape) * 10 + 5 for _ in range(inputs)]
    scale, bias = normal(rng, shape[-1]), normal(rng, shape[-1])
    got = run(command, "layer_norm", [bits(1e-5)], [scale, bias], terms, outputs=inputs)
    x = np.sum([term.astype(np.float64) for term in terms], axis=0)
    apart = x - x.mean(-1, keepdims=True)
    want = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
    # A row of one element, or of equal ones, is nothing but the rounding of its mean.
    rounding = 1e-6 * np.abs(x).max() / np.sqrt((apart**2).mean(-1).min() + 1e-5)
    size = np.abs(want).max(initial=1.0)
    np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-5 * size + rounding)
    if inputs == 2:
        np.testing.assert_array_equal(got[1], terms[0] + terms[1])


def test_layer_norm_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SEEDS, SHAPES, st.integers(1, 2))
    def holds(seed: int, shape: tuple[int, ...], inputs: int) -> None:
        check_layer_norm(command, seed, shape, inputs)

    holds()


def test_layer_norm_may_keep_its_sum_to_itself(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    terms, scale, bias = [normal(rng, 5, 40), normal(rng, 5, 40)], normal(rng, 40), normal(rng, 40)
    both = run(command, "layer_norm", [bits(1e-5)], [scale, bias], terms, outputs=2)
    (one,) = run(command, "layer_norm", [bits(1e-5)], [scale, bias], terms)
    np.testing.assert_array_equal(one, both[0])


def test_softmax_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SEEDS, SHAPES)
    def holds(seed: int, shape: tuple[int, ...]) -> None:
        x = normal(np.random.default_rng(seed), *shape) * 20
        (got,) = run(command, "softmax", [], [], [x])
        want = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
        want /= want.sum(-1, keepdims=True)
        # The distance to the largest, up to 100, is rounded before its exponential is taken.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-37)

    holds()


@pytest.mark.parametrize("activation", range(len(ops.ACTIVATIONS)))
def test_activation_is_close_everywhere(command: list[str], activation: int) -> None:
    x = np.concatenate([np.linspace(-12, 12, 20001), [-90, 90, -1e4, 1e4]]).astype(np.float32)
    (got,) = run(command, "activation", [activation], [], [x])
    want = activated(activation, x.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=3e-7, atol=2e-6)


@pytest.mark.parametrize("activation", range(len(ops.ACTIVATIONS)))
def test_activation_of_what_is_no_number_is_none(command: list[str], activation: int) -> None:
    """As in ONNX Runtime."""
    x = normal(np.random.default_rng(0), 70)
    x[::3] = np.nan
    (got,) = run(command, "activation", [activation], [], [x])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))


def test_add_repeats_its_second_term(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SEEDS, SHAPES, st.integers(0, 2), st.booleans(), st.booleans())
    def holds(seed: int, shape: tuple[int, ...], cut: int, ones: bool, constant: bool) -> None:
        rng = np.random.default_rng(seed)
        cut = min(cut, len(shape) - 1)
        x, term = normal(rng, *shape), normal(rng, *(1,) * (cut * ones), *shape[cut:])
        activation = seed % len(ops.ACTIVATIONS)
        inputs = [x] if constant else [x, term]
        (got,) = run(command, "add", [activation], [term] if constant else [], inputs)
        want = activated(activation, x.astype(np.float64) + term)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6)

    holds()


# ---- what is refused ----
def small_matmul() -> Step:
    rng = np.random.default_rng(0)
    weight = pack_blocks(normal(rng, 32, 8), (16, 1))
    sizes = [np.array(part, np.int64) for part in (weight.grid, weight.shape)]
    constants = [weight.values.reshape(-1, 16), weight.index, *sizes, normal(rng, 32)]
    x = normal(rng, 6, 8)
    return Step("matmul16", [0, 0], constants, [Tensor(x, x.shape)], kinds=TOKEN_KINDS)


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [Tensor(np.zeros(shape, np.float32), shape) for shape in shapes]


QKV = tensors((1, 4, 8), (1, 4, 8), (1, 4, 8))
BAD_STEPS = {
    "last dimension": replace(small_matmul(), inputs=tensors((6, 9))),
    "shape of the output": replace(small_matmul(), inputs=tensors((6, 8), (6, 31))),
    "unknown activation": replace(small_matmul(), attributes=[99, 0]),
    "multiple of 16": replace(
        small_matmul(),
        constants=[
            *packed_constants(np.ones((32, 8), np.float32), (4, 1)),
            np.zeros(32, np.float32),
        ],
    ),
    "size of the last axis": Step(
        "layer_norm", [0], [np.ones(3, np.float32)] * 2, tensors((2, 4)), kinds=TOKEN_KINDS
    ),
    "fewer tokens": Step("select", [5, 0], [], tensors((2, 5, 8)), kinds=TOKEN_KINDS),
    "unknown form": replace(small_matmul(), attributes=[0, 3]),
    "shape of the first": Step("add", [0], [], tensors((2, 4), (2, 3)), kinds=TOKEN_KINDS),
}


@pytest.mark.parametrize("message", BAD_STEPS)
def test_a_bad_step_is_refused(sanitized: list[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_outputs(BAD_STEPS[message], sanitized)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(matmuls(), SEEDS, SHAPES)
    def holds(
        matmul: tuple[list[int], list[Array], list[Floats], Floats],
        seed: int,
        shape: tuple[int, ...],
    ) -> None:
        check_matmul(sanitized, matmul)
        check_layer_norm(sanitized, seed, shape, 2)
        run(sanitized, "add", [5], [], [normal(np.random.default_rng(seed), *shape)] * 2)
        run(sanitized, "softmax", [], [], [normal(np.random.default_rng(seed), *shape)])

    holds()
