"""Int8 steps against exact integer arithmetic, on every instruction set, with and without its
instruction for products of bytes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.kernels.sources import HERE
from sparsecc.backends.kernels.step_harness import (
    PLAIN,
    Step,
    Tensor,
    build_steps,
    build_steps_sanitized,
    from_c4,
    run_step,
    to_c4,
)
from sparsecc.backends.kernels.table import ISAS
from sparsecc.formats.blocks import pack_blocks
from tests.backends.kernels.test_kernels import SMALL, Window, can_run, emulator, windows

Bytes = NDArray[np.uint8]
Exact = NDArray[np.float64]

EXAMPLES = 25
HALF = 0.501
"""Distance of a byte from the exact number: rounding, and the float32 it is computed in."""


@dataclass(frozen=True)
class Machine:
    """How to run a step, and what its instruction set takes off every byte."""

    command: list[str]
    bias: int


VARIANTS = [
    (isa.name, dot) for isa in ISAS.values() for dot in (False, True) if isa.dot_cpu or not dot
]


def _has_vnni() -> bool:
    with open("/proc/cpuinfo") as file:
        return "avx512_vnni" in file.read()


@pytest.fixture(
    scope="module", params=VARIANTS, ids=[f"{isa}{'-dot' * dot}" for isa, dot in VARIANTS]
)
def machine(request: pytest.FixtureRequest) -> Machine:
    """The harness of an instruction set."""
    isa, dot = request.param
    reason = can_run(isa)
    if reason or (dot and isa == "x86-64-v4" and not _has_vnni()):
        pytest.skip(reason or "this CPU has no AVX-512 VNNI")
    arm = isa.startswith("arm64")
    path = str(build_steps(isa, dot=dot))
    return Machine([*([str(emulator())] if arm else []), path], 128 if arm else 0)


def bits(value: float) -> int:
    """The float32 as an attribute carries it."""
    return int(np.float32(value).view(np.uint32))


@dataclass(frozen=True)
class Quant:
    """Zero points of X and Y, and the bytes that Y is clamped to."""

    x: int
    y: int
    low: int
    high: int

    def attributes(self) -> list[int]:
        return [self.x, self.y, self.low, self.high]


@st.composite
def quants(draw: st.DrawFn) -> Quant:
    byte = st.integers(0, 255)
    low, high = sorted((draw(byte), draw(byte)))
    clamped = draw(st.booleans())
    return Quant(draw(byte), draw(byte), low if clamped else 0, high if clamped else 255)


@dataclass(frozen=True)
class Conv:
    """A convolution of bytes: weight ``[R, kh, kw, C/group]``."""

    x: Bytes
    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.float32]
    window: Window
    quant: Quant
    backwards: bool

    @property
    def attributes(self) -> list[int]:
        w = self.window
        return [*w.strides, *w.pads, *w.dilations, *self.quant.attributes()]

    def conv_step(self, bias: int) -> Step:
        fill = -self.weight.shape[3] % 4
        padded = np.pad(self.weight, [(0, 0)] * 3 + [(0, fill)])
        packed = pack_blocks(padded, (4, 4))
        shape = np.array(padded.shape, np.int64)
        constants = [packed.values, packed.index, np.array(packed.grid, np.int64), shape]
        constants += [self.bias, self.multiplier]
        return Step(
            "conv", self.attributes, constants, [to_c4(self.x, bias, 77)], self.backwards, 2
        )

    def depthwise_step(self, bias: int) -> Step:
        constants = [np.ascontiguousarray(self.weight[..., 0]), self.bias, self.multiplier]
        x = to_c4(self.x, bias, 77)
        return Step("depthwise", self.attributes, constants, [x], self.backwards, 2)

    def exact(self) -> Exact:
        """The result before rounding."""
        w, (rows, kh, kw, depth) = self.window, self.weight.shape
        n, channels, height, width = self.x.shape
        top, left, bottom, right = w.pads
        centred = np.pad(
            self.x.astype(np.int64) - self.quant.x, [(0, 0), (0, 0), (top, bottom), (left, right)]
        )
        group = channels // depth
        grouped = centred.reshape(n, group, depth, *centred.shape[2:])
        weight = self.weight.astype(np.int64).reshape(group, rows // group, kh, kw, depth)
        high, wide = w.outputs((height, width))
        out = np.zeros((n, group, rows // group, high, wide), np.int64)
        for i in range(kh):
            for j in range(kw):
                first, begin = i * w.dilations[0], j * w.dilations[1]
                rows_seen = slice(first, first + (high - 1) * w.strides[0] + 1, w.strides[0])
                columns = slice(begin, begin + (wide - 1) * w.strides[1] + 1, w.strides[1])
                seen = grouped[:, :, :, rows_seen, columns]
                out += np.einsum("grk,ngkhw->ngrhw", weight[:, :, i, j], seen)
        sums = out.reshape(n, rows, high, wide) + self.bias[:, None, None]
        scaled: Exact = sums * self.multiplier.astype(np.float64)[:, None, None] + self.quant.y
        return scaled.clip(self.quant.low, self.quant.high)


def _conv(
    rng: np.random.Generator, x: Bytes, weight: NDArray[np.int8], window: Window, quant: Quant
) -> Conv:
    rows = len(weight)
    reach = 40.0 * np.sqrt(weight[0].size) * 64
    return Conv(
        x,
        weight,
        rng.integers(-(2**14), 2**14, rows).astype(np.int32),
        (rng.uniform(0.2, 1.5, rows) * 100 / reach).astype(np.float32),
        window,
        quant,
        bool(rng.integers(2)),
    )


def _bytes(rng: np.random.Generator, shape: Sequence[int]) -> Bytes:
    return rng.integers(0, 256, shape, np.uint8)


def _blocks(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> NDArray[np.int8]:
    """Weights [R, kh, kw, C] in which 4x4 blocks of zeros are missing."""
    weight = rng.integers(-128, 128, shape, np.int8)
    kept = rng.random((-(-shape[0] // 4), *shape[1:3], -(-shape[3] // 4))) < density
    mask = kept.repeat(4, axis=0).repeat(4, axis=3)[: shape[0], ..., : shape[3]]
    return weight * mask


def _sides(draw: st.DrawFn, window: Window, most: int) -> tuple[int, int]:
    drawn = draw(st.integers(1, most)), draw(st.integers(1, most))
    return max(drawn[0], window.reach(0)), max(drawn[1], window.reach(1))


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    """Any kernel; a third are 1x1 and unpadded, over maps of one pixel to many vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plain = draw(st.integers(0, 2)) == 0
    window = Window((1, 1)) if plain else draw(windows())
    inputs, outputs = draw(st.integers(1, 21)), draw(st.integers(1, 21))
    density = draw(st.sampled_from([0.0, 0.2, 1.0]))
    sides = _sides(draw, window, 30 if plain else 19)
    weight = _blocks(rng, (outputs, *window.kernel, inputs), density)
    return _conv(rng, _bytes(rng, (draw(SMALL), inputs, *sides)), weight, window, draw(quants()))


@st.composite
def depthwise(draw: st.DrawFn) -> Conv:
    """Kernels of one tap to twenty-five, most of them 3x3."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = draw(st.sampled_from([(3, 3), (5, 5)]))
    same = Window(kernel, pads=(kernel[0] // 2, kernel[1] // 2) * 2)
    halved = replace(same, strides=(2, 2))
    window = draw(st.one_of(st.just(same), st.just(halved), windows()))
    channels = draw(st.integers(1, 9))
    sides = _sides(draw, window, 40)
    weight = rng.integers(-128, 128, (channels, *window.kernel, 1), np.int8)
    return _conv(rng, _bytes(rng, (draw(SMALL), channels, *sides)), weight, window, draw(quants()))


def check_bytes(got: Bytes, exact: Exact | Bytes) -> None:
    assert got.shape == exact.shape
    assert np.abs(got - exact.astype(np.float64)).max(initial=0) <= HALF


def check_conv(conv: Conv, machine: Machine) -> None:
    done = run_step(conv.conv_step(machine.bias), machine.command)
    check_bytes(from_c4(done, machine.bias), conv.exact())


def check_depthwise(conv: Conv, machine: Machine) -> None:
    done = run_step(conv.depthwise_step(machine.bias), machine.command)
    check_bytes(from_c4(done, machine.bias), conv.exact())


def test_conv_is_exact(machine: Machine) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(convs())
    def holds(conv: Conv) -> None:
        check_conv(conv, machine)

    holds()


def test_depthwise_is_exact(machine: Machine) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(depthwise())
    def holds(conv: Conv) -> None:
        check_depthwise(conv, machine)

    holds()


@dataclass(frozen=True)
class Pool:
    """Bytes, and the window whose largest one is wanted."""

    x: Bytes
    window: Window

    def step(self, bias: int) -> Step:
        w = self.window
        attributes = [*w.kernel, *w.strides, *w.pads, *w.dilations]
        return Step("maxpool", attributes, [], [to_c4(self.x, bias, 77)], False, 2)

    def exact(self) -> Bytes:
        w = self.window
        top, left, bottom, right = w.pads
        padded = np.pad(self.x, [(0, 0), (0, 0), (top, bottom), (left, right)])
        sides = [(w.kernel[i] - 1) * w.dilations[i] + 1 for i in (0, 1)]
        seen = np.lib.stride_tricks.sliding_window_view(padded, sides, (2, 3))
        every = seen[:, :, :: w.strides[0], :: w.strides[1], :: w.dilations[0], :: w.dilations[1]]
        largest: Bytes = every.max((4, 5))
        return largest


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Any window; a third are the 3x3 one at stride 2 of ResNets."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    usual = draw(st.integers(0, 2)) == 0
    window = Window((3, 3), (2, 2), pads=(1, 1, 1, 1)) if usual else draw(windows())
    shape = draw(SMALL), draw(st.integers(1, 9)), *_sides(draw, window, 40)
    return Pool(_bytes(rng, shape), window)


def check_pool(pool: Pool, machine: Machine) -> None:
    got = from_c4(run_step(pool.step(machine.bias), machine.command), machine.bias)
    np.testing.assert_array_equal(got, pool.exact())


def test_maxpool_is_exact(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(pools())
    def holds(pool: Pool) -> None:
        check_pool(pool, machine)

    holds()


def test_a_large_image_is_pooled_in_several_bands(machine: Machine) -> None:
    x = _bytes(np.random.default_rng(0), (2, 5, 130, 70))
    check_pool(Pool(x, Window((3, 3), (2, 2), pads=(1, 1, 1, 1))), machine)


@pytest.mark.parametrize(("kernel", "side"), [(3, 60), (1, 40), (5, 33)])
def test_large_images_take_several_bands(machine: Machine, kernel: int, side: int) -> None:
    rng = np.random.default_rng(0)
    window = Window((kernel, kernel), pads=(kernel // 2,) * 4)
    x, quant = _bytes(rng, (2, 130, side, 70)), Quant(7, 100, 0, 255)
    weight = _blocks(rng, (18, kernel, kernel, 130), 0.3)
    check_conv(_conv(rng, x, weight, window, quant), machine)
    one = rng.integers(-128, 128, (130, kernel, kernel, 1), np.int8)
    check_depthwise(_conv(rng, x, one, window, quant), machine)


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
        _bytes(rng, shape), draw(st.sampled_from([0.02, 1.0, 0.3])), int(rng.integers(256))
    )


def test_quantize_is_exact(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images(), st.floats(0.1, 3.0))
    def holds(image: Scaled, spread: float) -> None:
        x = ((image.x.astype(np.float32) - 128) * np.float32(spread * image.scale)).astype(
            np.float32
        )
        attributes = [bits(image.scale), image.zero]
        step = Step("quantize", attributes, [], [Tensor(x, x.shape)])
        exact = x.astype(np.float64) / image.scale + image.zero
        got = from_c4(run_step(step, machine.command), machine.bias)
        check_bytes(got, exact.clip(0, 255))

    holds()


def test_quantize_breaks_ties_as_onnx_does(machine: Machine) -> None:
    """Pixels in -1..1 all lie between two bytes: divided, rounded to even, then the zero point."""
    pixels = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    x, scale = pixels.reshape(1, 1, 16, 16), np.float32(1 / 127.5)
    for zero in (127, 128):
        step = Step("quantize", [bits(float(scale)), zero], [], [Tensor(x, x.shape)])
        got = from_c4(run_step(step, machine.command), machine.bias)
        np.testing.assert_array_equal(got, (np.rint(x / scale) + zero).clip(0, 255))


def test_what_is_no_number_becomes_a_byte(machine: Machine) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32).reshape(1, 1, 1, 4).repeat(5, 3)
    step = Step("quantize", [bits(1.0), 3], [], [Tensor(x, x.shape)])
    got = from_c4(run_step(step, machine.command), machine.bias)
    np.testing.assert_array_equal(got.ravel(), np.repeat([0, 255, 0, 255], 5))


def test_dequantize_is_exact(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images())
    def holds(image: Scaled) -> None:
        step = Step(
            "dequantize", [bits(image.scale), image.zero, 4], [], [to_c4(image.x, machine.bias)]
        )
        got = run_step(step, machine.command)
        assert (got.layout, got.dims) == (PLAIN, image.x.shape)
        exact = (image.x.astype(np.float64) - image.zero) * np.float32(image.scale)
        np.testing.assert_allclose(got.data.reshape(got.dims), exact, rtol=1e-6)

    holds()


def test_dequantize_drops_the_sides_of_one_pixel(machine: Machine) -> None:
    x = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1)
    step = Step("dequantize", [bits(0.5), 1, 2], [], [to_c4(x, machine.bias)])
    got = run_step(step, machine.command)
    np.testing.assert_array_equal(got.data.reshape(got.dims), (x[..., 0, 0] - 1.0) * 0.5)


def test_add_is_exact(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images(), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), quants())
    def holds(image: Scaled, a: float, b: float, quant: Quant) -> None:
        other = image.x[::-1, ::-1, ::-1, ::-1]
        attributes = [bits(a), bits(b), bits(image.zero), quant.low, quant.high]
        inputs = [to_c4(image.x, machine.bias), to_c4(other, machine.bias)]
        got = from_c4(run_step(Step("add", attributes, [], inputs), machine.command), machine.bias)
        exact = image.x * float(np.float32(a)) + other * float(np.float32(b)) + image.zero
        check_bytes(got, exact.clip(quant.low, quant.high))

    holds()


def test_mean_is_exact(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(images(), st.floats(0.1, 3.0), st.integers(0, 255))
    def holds(image: Scaled, multiplier: float, zero: int) -> None:
        attributes = [bits(multiplier), image.zero, zero]
        step = Step("mean", attributes, [], [to_c4(image.x, machine.bias)])
        got = from_c4(run_step(step, machine.command), machine.bias)
        mean = (image.x.astype(np.float64) - image.zero).mean((2, 3), keepdims=True)
        check_bytes(got, (mean * float(np.float32(multiplier)) + zero).clip(0, 255))

    holds()


def _small() -> Step:
    rng = np.random.default_rng(0)
    weight = _blocks(rng, (8, 1, 1, 8), 1.0)
    return _conv(
        rng, _bytes(rng, (1, 8, 2, 2)), weight, Window((1, 1)), Quant(0, 0, 0, 255)
    ).conv_step(0)


BAD = {
    "ascending": (1, np.array([1, 0, 2, 3], np.int32)),
    "inside the grid": (1, np.array([0, 1, 2, 4], np.int32)),
    "values is not": (0, np.zeros((3, 16), np.int8)),
    "another type": (0, np.zeros((4, 16), np.float32)),
    "4x4 blocks": (2, np.array([2, 2, 4, 1], np.int64)),
    "multiple of four": (3, np.array([8, 1, 1, 7], np.int64)),
    "empty or huge": (3, np.array([8, 1, 1, 1 << 40], np.int64)),
    "bias is not": (4, np.zeros(7, np.int32)),
    "multiplier is not": (5, np.zeros(9, np.float32)),
    "too large": (5, np.full(8, 1e6, np.float32)),
    "negative": (5, np.full(8, np.nan, np.float32)),
    "overflow": (4, np.full(8, 2**31 - 1, np.int32)),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_weight_is_refused(message: str, sanitized: Machine) -> None:
    step = _small()
    where, array = BAD[message]
    constants = [*step.constants]
    constants[where] = array
    attributes = [*step.attributes[:8], 255, *step.attributes[9:]]
    with pytest.raises(RuntimeError, match=message):
        run_step(replace(step, constants=constants, attributes=attributes), sanitized.command)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 0, "stride"),
        (2, -1, "pad"),
        (8, 256, "zero point"),
        (10, 300, "bound"),
        (6, 99, "dilation"),
    ],
)
def test_a_bad_attribute_is_refused(at: int, value: int, message: str, sanitized: Machine) -> None:
    step = _small()
    attributes = [*step.attributes]
    attributes[at] = value
    with pytest.raises(RuntimeError, match=message):
        run_step(replace(step, attributes=attributes), sanitized.command)


def test_another_number_of_channels_is_refused(sanitized: Machine) -> None:
    wrong = to_c4(np.zeros((1, 9, 2, 2), np.uint8), 0)
    with pytest.raises(RuntimeError, match="number of channels"):
        run_step(replace(_small(), inputs=[wrong]), sanitized.command)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The steps under address and undefined-behaviour sanitizers, on the best variant here."""
    isa = next((name for name in reversed(ISAS) if "x86" in name and not can_run(name)), None)
    if isa is None or not shutil.which("gcc"):
        pytest.skip("no x86-64 variant, or no gcc, is here")
    assert HERE.is_dir()
    return Machine([str(build_steps_sanitized(isa, "gcc", tmp_path_factory.mktemp("steps")))], 0)


def test_nothing_is_undefined(sanitized: Machine) -> None:
    @settings(max_examples=4 * EXAMPLES)
    @given(
        st.one_of(
            convs().map(lambda c: (c, c.conv_step(0))),
            depthwise().map(lambda c: (c, c.depthwise_step(0))),
            pools().map(lambda p: (p, p.step(0))),
        )
    )
    def holds(drawn: tuple[Conv | Pool, Step]) -> None:
        case, step = drawn
        check_bytes(from_c4(run_step(step, sanitized.command), 0), case.exact())

    holds()
