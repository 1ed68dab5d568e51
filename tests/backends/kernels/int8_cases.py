"""Convolutions and pools of bytes as tests make them, and what they compute exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.kernels.step_harness import Step, from_c4, run_step, to_c4
from sparsecc.formats.blocks import pack_blocks
from tests.backends.kernels.test_kernels import SMALL, Window, windows

Bytes = NDArray[np.uint8]
Exact = NDArray[np.float64]

HALF = 0.501
"""Distance of a byte from the exact number: rounding, and the float32 it is computed in."""


@dataclass(frozen=True)
class Machine:
    """How to run a step, and what its instruction set takes off every byte."""

    command: list[str]
    bias: int


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


def conv_of(
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


def bytes_of(rng: np.random.Generator, shape: Sequence[int]) -> Bytes:
    return rng.integers(0, 256, shape, np.uint8)


def blocks_of(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> NDArray[np.int8]:
    """Weights [R, kh, kw, C] in which 4x4 blocks of zeros are missing."""
    weight = rng.integers(-128, 128, shape, np.int8)
    kept = rng.random((-(-shape[0] // 4), *shape[1:3], -(-shape[3] // 4))) < density
    mask = kept.repeat(4, axis=0).repeat(4, axis=3)[: shape[0], ..., : shape[3]]
    return weight * mask


def sides_of(draw: st.DrawFn, window: Window, most: int) -> tuple[int, int]:
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
    sides = sides_of(draw, window, 30 if plain else 19)
    weight = blocks_of(rng, (outputs, *window.kernel, inputs), density)
    return conv_of(
        rng, bytes_of(rng, (draw(SMALL), inputs, *sides)), weight, window, draw(quants())
    )


@st.composite
def depthwise(draw: st.DrawFn) -> Conv:
    """Kernels of one tap to twenty-five, most of them 3x3."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = draw(st.sampled_from([(3, 3), (5, 5)]))
    same = Window(kernel, pads=(kernel[0] // 2, kernel[1] // 2) * 2)
    halved = replace(same, strides=(2, 2))
    window = draw(st.one_of(st.just(same), st.just(halved), windows()))
    channels = draw(st.integers(1, 9))
    sides = sides_of(draw, window, 40)
    weight = rng.integers(-128, 128, (channels, *window.kernel, 1), np.int8)
    return conv_of(
        rng, bytes_of(rng, (draw(SMALL), channels, *sides)), weight, window, draw(quants())
    )


def check_bytes(got: Bytes, exact: Exact | Bytes) -> None:
    assert got.shape == exact.shape
    assert np.abs(got - exact.astype(np.float64)).max(initial=0) <= HALF


def check_conv(conv: Conv, machine: Machine) -> None:
    done = run_step(conv.conv_step(machine.bias), machine.command)
    check_bytes(from_c4(done, machine.bias), conv.exact())


def check_depthwise(conv: Conv, machine: Machine) -> None:
    done = run_step(conv.depthwise_step(machine.bias), machine.command)
    check_bytes(from_c4(done, machine.bias), conv.exact())


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
    shape = draw(SMALL), draw(st.integers(1, 9)), *sides_of(draw, window, 40)
    return Pool(bytes_of(rng, shape), window)


def check_pool(pool: Pool, machine: Machine) -> None:
    got = from_c4(run_step(pool.step(machine.bias), machine.command), machine.bias)
    np.testing.assert_array_equal(got, pool.exact())
