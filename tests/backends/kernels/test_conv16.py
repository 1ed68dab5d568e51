"""Step kinds of layout C16, on every instruction set, against numpy in float64.

The executable puts a page without access behind each array, so that these tests also see a read or
a write beyond its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.kernels.step_harness import (
    C16,
    CHANNEL_KINDS,
    PLAIN,
    Array,
    Step,
    Tensor,
    build_channel_steps,
    build_channel_steps_sanitized,
    run_step,
)
from sparsecc.backends.kernels.table import ISAS
from sparsecc.formats.blocks import pack_blocks
from sparsecc.ops.sparse_conv import linear
from tests.backends.kernels.executables import command_of, sanitized_command
from tests.backends.kernels.test_kernels import Window

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

EXAMPLES = 40
TOLERANCE = 2e-5
LANES = 16
BLOCKS = ((16, 1), (16, 1), (32, 1), (16, 2), (48, 4))
DENSITIES = (0.0, 0.1, 0.5, 1.0)
SEEDS = st.integers(0, 2**32 - 1)
ACTIVATIONS = st.integers(0, len(ops.ACTIVATIONS) - 1)
UNIT = Window((1, 1))


@pytest.fixture(scope="module", params=list(ISAS))
def command(request: pytest.FixtureRequest) -> list[str]:
    """How to run the executable of an instruction set."""
    return command_of(request.param, build_channel_steps)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The executable under address and undefined-behaviour sanitizers."""
    return sanitized_command(
        build_channel_steps_sanitized, tmp_path_factory.mktemp("channel-steps")
    )


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def to_c16(x: Floats) -> Tensor:
    n, c, h, w = x.shape
    padded = np.zeros((n, -(-c // LANES) * LANES, h, w), np.float32)
    padded[:, :c] = x
    return Tensor(padded.reshape(n, -1, LANES, h, w).transpose(0, 1, 3, 4, 2), x.shape, C16)


def from_c16(tensor: Tensor) -> Floats:
    """The channels; those that fill up the last group must be zero."""
    n, c, h, w = tensor.dims
    lanes = tensor.data.reshape(n, -1, h, w, LANES).transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)
    np.testing.assert_array_equal(lanes[:, c:], 0)
    return np.asarray(lanes[:, :c], np.float32)


@dataclass(frozen=True)
class Layer:
    """A convolution: its weight is ``[O, kh, kw, I/group]``, its blocks none when it is dense."""

    weight: Floats
    bias: Floats
    window: Window
    activation: int
    group: int = 1
    block: tuple[int, int] | None = None

    def constants(self) -> list[Array]:
        """As the step takes them."""
        if self.block is None:
            return [self.weight.transpose(0, 3, 1, 2), self.bias]
        packed = pack_blocks(self.weight, self.block)
        sizes = (np.array(part, np.int64) for part in (packed.grid, packed.shape))
        return [packed.values, packed.index, *sizes, self.bias]

    def place(self) -> list[int]:
        """Strides, pads and dilations."""
        return [*self.window.strides, *self.window.pads, *self.window.dilations]

    def sums(self, x: Doubles, change: np.ufunc = np.positive) -> Doubles:
        """The result before the activation, of changed numbers."""
        window = self.window
        attributes = {
            "strides": list(window.strides),
            "pads": list(window.pads),
            "dilations": list(window.dilations),
            "group": self.group,
        }
        parts = (change(part.astype(np.float64)) for part in (x, self.weight, self.bias))
        return np.asarray(linear(*parts, attributes), np.float64)

    def activated(self, sums: Doubles) -> Doubles:
        return np.asarray(ops.ACTIVATIONS[self.activation].meaning(sums), np.float64)


@dataclass(frozen=True)
class Case:
    """A step over an image, and its layers in turn: two of them are a separable convolution."""

    kind: str
    layers: Sequence[Layer]
    x: Floats
    residual: Floats | None = None
    plain: bool = False
    backwards: bool = False

    def step(self) -> Step:
        last = self.layers[-1]
        attributes = self.layers[0].place()
        if self.kind == "conv16":
            attributes.append(last.group)
        else:
            attributes.append(self.layers[0].activation)
        if self.kind != "depthwise16":
            attributes += [last.activation, int(last.block is None)]
        inputs = [Tensor(self.x, self.x.shape, PLAIN) if self.plain else to_c16(self.x)]
        if self.residual is not None:
            inputs.append(to_c16(self.residual))
        constants = [constant for layer in self.layers for constant in layer.constants()]
        how = (self.backwards, 1 + self.backwards)
        return Step(self.kind, attributes, constants, inputs, *how, kinds=CHANNEL_KINDS)

    def expected(self) -> tuple[Doubles, float]:
        """The result, and the largest sum of magnitudes behind an element of it."""
        value, magnitude = self.x.astype(np.float64), np.abs(self.x).astype(np.float64)
        for layer in self.layers:
            value, magnitude = layer.sums(value), layer.sums(magnitude, np.absolute)
            if layer is self.layers[-1] and self.residual is not None:
                value = value + self.residual
            value = layer.activated(value)
        return value, float(magnitude.max(initial=1.0))


def check(case: Case, command: Sequence[str]) -> None:
    got = from_c16(run_step(case.step(), command))
    want, magnitude = case.expected()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * magnitude)


def drawn_weight(
    draw: st.DrawFn, rng: np.random.Generator, shape: tuple[int, ...]
) -> tuple[Floats, tuple[int, int] | None]:
    """A weight with zeros in blocks, or a dense one."""
    weight = normal(rng, *shape)
    if draw(st.integers(0, 3)) == 0:
        return weight, None
    block, density = draw(st.sampled_from(BLOCKS)), draw(st.sampled_from(DENSITIES))
    matrix = weight.reshape(shape[0], -1)
    rows, columns = (-(-side // b) for side, b in zip(matrix.shape, block, strict=True))
    kept = np.kron(rng.random((rows, columns)) < density, np.ones(block, np.float32))
    return (matrix * kept[: shape[0], : matrix.shape[1]]).astype(np.float32).reshape(shape), block


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Those that networks have, and any others."""
    side = draw(st.sampled_from([1, 3, 5, 7]))
    stride = draw(st.integers(1, 2))
    if draw(st.booleans()):
        return Window((side, side), (stride, stride), pads=(side // 2,) * 4)
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    near = st.integers(1, 2)
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    return Window((side, draw(st.integers(1, 5))), draw(pair), draw(st.tuples(near, near)), pads)


def drawn_sides(draw: st.DrawFn, window: Window) -> tuple[int, int]:
    sides = draw(
        st.one_of(st.tuples(*[st.integers(1, 40)] * 2), st.sampled_from([(7, 7), (14, 14)]))
    )
    return max(sides[0], window.reach(0)), max(sides[1], window.reach(1))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Convolutions of any kind, the last block of outputs and the last slot of inputs ragged."""
    rng = np.random.default_rng(draw(SEEDS))
    window = draw(st.one_of(st.just(UNIT), windows()))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    inputs = draw(st.integers(1, 40))
    outputs = draw(st.integers(1, 70)) if group == 1 else group * LANES * draw(st.integers(1, 2))
    weight, block = drawn_weight(draw, rng, (outputs, *window.kernel, inputs))
    layer = Layer(weight, normal(rng, outputs), window, draw(ACTIVATIONS), group, block)
    sides, batch = drawn_sides(draw, window), draw(st.integers(1, 3))
    x = normal(rng, batch, inputs * group, *sides)
    residual = normal(rng, batch, outputs, *window.outputs(sides)) if draw(st.booleans()) else None
    plain = draw(st.integers(0, 3)) == 0
    return Case("conv16", [layer], x, residual, plain, draw(st.booleans()))


def depthwise_layer(
    draw: st.DrawFn, rng: np.random.Generator, channels: int
) -> tuple[Layer, tuple[int, int]]:
    window = draw(windows())
    weight = normal(rng, channels, *window.kernel, 1)
    layer = Layer(weight, normal(rng, channels), window, draw(ACTIVATIONS), channels)
    return layer, drawn_sides(draw, window)


@st.composite
def depthwise(draw: st.DrawFn) -> Case:
    """Depthwise convolutions."""
    rng = np.random.default_rng(draw(SEEDS))
    channels = draw(st.integers(1, 40))
    layer, sides = depthwise_layer(draw, rng, channels)
    x = normal(rng, draw(st.integers(1, 3)), channels, *sides)
    return Case("depthwise16", [layer], x, backwards=draw(st.booleans()))


@st.composite
def separable(draw: st.DrawFn) -> Case:
    """Depthwise and 1x1 convolutions in turn."""
    rng = np.random.default_rng(draw(SEEDS))
    channels, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    first, sides = depthwise_layer(draw, rng, channels)
    weight, block = drawn_weight(draw, rng, (outputs, 1, 1, channels))
    second = Layer(weight, normal(rng, outputs), UNIT, draw(ACTIVATIONS), block=block)
    batch = draw(st.sampled_from([1, 2, 3, 5]))
    x = normal(rng, batch, channels, *sides)
    out = (batch, outputs, *first.window.outputs(sides))
    residual = normal(rng, *out) if draw(st.booleans()) else None
    return Case("separable16", [first, second], x, residual, backwards=draw(st.booleans()))


DRAWN = {"conv16": convolutions(), "depthwise16": depthwise(), "separable16": separable()}


@pytest.mark.parametrize("kind", CHANNEL_KINDS)
def test_a_step_is_its_numpy_meaning(command: list[str], kind: str) -> None:
    @settings(max_examples=EXAMPLES)
    @given(DRAWN[kind])
    def holds(case: Case) -> None:
        check(case, command)

    holds()


@pytest.mark.parametrize("kind", CHANNEL_KINDS)
def test_a_step_has_no_undefined_behaviour(sanitized: list[str], kind: str) -> None:
    @settings(max_examples=EXAMPLES // 2)
    @given(DRAWN[kind])
    def holds(case: Case) -> None:
        check(case, sanitized)

    holds()


def layer_of(
    rng: np.random.Generator, outputs: int, inputs: int, window: Window, density: float
) -> Layer:
    weight = normal(rng, outputs, *window.kernel, inputs)
    kept = np.repeat(rng.random((-(-outputs // LANES), *weight.shape[1:])) < density, LANES, 0)
    return Layer(weight * kept[:outputs], normal(rng, outputs), window, 1, block=(LANES, 1))


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "side"),
    [
        (600, 1, 1, 7),
        (400, 1, 1, 14),
        (40, 1, 1, 65),
        (90, 3, 1, 60),
        (70, 3, 2, 70),
        (700, 3, 1, 5),
    ],
)
def test_large_images_and_deep_weights_have_their_ways(
    command: list[str], inputs: int, kernel: int, stride: int, side: int, density: float
) -> None:
    rng = np.random.default_rng(0)
    window = Window((kernel, kernel), (stride, stride), pads=(kernel // 2,) * 4)
    layer = layer_of(rng, 130, inputs, window, density)
    check(Case("conv16", [layer], normal(rng, 2, inputs, side, side)), command)


def test_large_images_go_through_a_separable_convolution_by_bands(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    window = Window((3, 3), pads=(1,) * 4)
    first = Layer(normal(rng, 70, 3, 3, 1), normal(rng, 70), window, 2, 70)
    second = layer_of(rng, 40, 70, UNIT, 0.3)
    x, residual = normal(rng, 1, 70, 61, 59), normal(rng, 1, 40, 61, 59)
    check(Case("separable16", [first, second], x, residual), command)


@pytest.mark.parametrize("pixels", range(1, 31))
def test_every_number_of_pixels_has_its_tiles(command: list[str], pixels: int) -> None:
    rng = np.random.default_rng(pixels)
    layer = layer_of(rng, 33, 20, UNIT, 0.5)
    check(Case("conv16", [layer], normal(rng, 1, 20, 1, pixels)), command)


def refused(step: Step, command: Sequence[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_step(step, command)


def test_what_a_step_cannot_do_is_refused(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    layer = layer_of(rng, 32, 8, UNIT, 1.0)
    step = Case("conv16", [layer], normal(rng, 1, 8, 4, 4)).step()
    refused(replace(step, attributes=step.attributes[:-1]), command, "eleven attributes")
    refused(replace(step, constants=step.constants[:-1]), command, "packed weight is missing")
    refused(replace(step, inputs=[to_c16(normal(rng, 1, 9, 4, 4))]), command, "number of channels")
    refused(
        replace(step, inputs=[*step.inputs, to_c16(normal(rng, 1, 32, 4, 5))]), command, "residual"
    )
    small = Case("conv16", [replace(layer, block=(8, 1))], normal(rng, 1, 8, 4, 4)).step()
    refused(small, command, "multiple of 16 rows")
    grouped = Case("conv16", [replace(layer, group=4)], normal(rng, 1, 32, 4, 4)).step()
    refused(grouped, command, "outputs of a group")
    wide = replace(step, attributes=[1, 1, 0, 0, 0, 0, 0, 1, *step.attributes[8:]])
    refused(wide, command, "dilations")


def test_a_changed_index_is_refused(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    step = Case("conv16", [layer_of(rng, 32, 8, UNIT, 1.0)], normal(rng, 1, 8, 4, 4)).step()
    constants = list(step.constants)
    constants[1] = np.asarray(constants[1]) + np.int32(1)
    refused(replace(step, constants=constants), command, "outside the block grid")


def test_depthwise_of_another_shape_is_refused(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    layer = Layer(normal(rng, 20, 3, 3, 1), normal(rng, 20), Window((3, 3)), 0, 20)
    step = Case("depthwise16", [layer], normal(rng, 1, 20, 4, 4)).step()
    refused(
        replace(step, constants=[normal(rng, 20, 2, 3, 3), layer.bias]), command, "C, 1, kh, kw"
    )
    refused(replace(step, inputs=[to_c16(normal(rng, 1, 19, 4, 4))]), command, "number of channels")
    plain = Tensor(normal(rng, 1, 20, 4, 4), (1, 20, 4, 4), PLAIN)
    refused(replace(step, inputs=[plain]), command, "layout C16")
    second = layer_of(rng, 16, 20, Window((3, 3)), 1.0)
    pair = Case("separable16", [layer, second], normal(rng, 1, 20, 4, 4)).step()
    refused(pair, command, "must be 1x1")
