"""Int8 steps that go number by number against exact arithmetic, on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.step_harness import PLAIN, Step, Tensor, from_c4, run_step, to_c4
from tests.backends.kernels.int8_cases import Bytes, Machine, Quant, bytes_of, check_bytes, quants
from tests.backends.kernels.test_kernels import SMALL

EXAMPLES = 25


def bits(value: float) -> int:
    """The float32 as an attribute carries it."""
    return int(np.float32(value).view(np.uint32))


@dataclass(frozen=True)
class Scaled:
    """Bytes, and the numbers that stand for them."""

    x: Bytes
    scale: float
    zero: int


@st.composite
def images(draw: st.DrawFn) -> Scaled:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = [
        draw(SMALL),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
    ]
    return Scaled(
        bytes_of(rng, shape), draw(st.sampled_from([0.02, 1.0, 0.3])), int(rng.integers(256))
    )


def test_quantize_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images(), st.floats(0.1, 3.0))
    def holds(image: Scaled, spread: float) -> None:
        x = ((image.x.astype(np.float32) - 128) * np.float32(spread * image.scale)).astype(
            np.float32
        )
        attributes = [bits(image.scale), image.zero]
        step = Step("quantize", attributes, [], [Tensor(x, x.shape)])
        exact = x.astype(np.float64) / image.scale + image.zero
        got = from_c4(run_step(step, int8_machine.command), int8_machine.bias)
        check_bytes(got, exact.clip(0, 255))

    holds()


def test_quantize_breaks_ties_as_onnx_does(int8_machine: Machine) -> None:
    """Pixels in -1..1 all lie between two bytes: divided, rounded to even, then the zero point."""
    pixels = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    x, scale = pixels.reshape(1, 1, 16, 16), np.float32(1 / 127.5)
    for zero in (127, 128):
        step = Step("quantize", [bits(float(scale)), zero], [], [Tensor(x, x.shape)])
        got = from_c4(run_step(step, int8_machine.command), int8_machine.bias)
        np.testing.assert_array_equal(got, (np.rint(x / scale) + zero).clip(0, 255))


def test_what_is_no_number_becomes_a_byte(int8_machine: Machine) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32).reshape(1, 1, 1, 4).repeat(5, 3)
    step = Step("quantize", [bits(1.0), 3], [], [Tensor(x, x.shape)])
    got = from_c4(run_step(step, int8_machine.command), int8_machine.bias)
    np.testing.assert_array_equal(got.ravel(), np.repeat([0, 255, 0, 255], 5))


def test_dequantize_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images())
    def holds(image: Scaled) -> None:
        step = Step(
            "dequantize",
            [bits(image.scale), image.zero, 4],
            [],
            [to_c4(image.x, int8_machine.bias)],
        )
        got = run_step(step, int8_machine.command)
        assert (got.layout, got.dims) == (PLAIN, image.x.shape)
        exact = (image.x.astype(np.float64) - image.zero) * np.float32(image.scale)
        np.testing.assert_allclose(got.data.reshape(got.dims), exact, rtol=1e-6)

    holds()


def test_dequantize_drops_the_sides_of_one_pixel(int8_machine: Machine) -> None:
    x = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1)
    step = Step("dequantize", [bits(0.5), 1, 2], [], [to_c4(x, int8_machine.bias)])
    got = run_step(step, int8_machine.command)
    np.testing.assert_array_equal(got.data.reshape(got.dims), (x[..., 0, 0] - 1.0) * 0.5)


def test_add_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images(), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), quants())
    def holds(image: Scaled, a: float, b: float, quant: Quant) -> None:
        other = image.x[::-1, ::-1, ::-1, ::-1]
        attributes = [bits(a), bits(b), bits(image.zero), quant.low, quant.high]
        inputs = [to_c4(image.x, int8_machine.bias), to_c4(other, int8_machine.bias)]
        got = from_c4(
            run_step(Step("add", attributes, [], inputs), int8_machine.command), int8_machine.bias
        )
        exact = image.x * float(np.float32(a)) + other * float(np.float32(b)) + image.zero
        check_bytes(got, exact.clip(quant.low, quant.high))

    holds()


def test_mean_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images(), st.floats(0.1, 3.0), st.integers(0, 255))
    def holds(image: Scaled, multiplier: float, zero: int) -> None:
        attributes = [bits(multiplier), image.zero, zero]
        step = Step("mean", attributes, [], [to_c4(image.x, int8_machine.bias)])
        got = from_c4(run_step(step, int8_machine.command), int8_machine.bias)
        mean = (image.x.astype(np.float64) - image.zero).mean((2, 3), keepdims=True)
        check_bytes(got, (mean * float(np.float32(multiplier)) + zero).clip(0, 255))

    holds()
