"""Chains of convolutions, on every instruction set, against numpy in float64.

The executable puts a page without access behind each array, so that these tests also see a read or
a write beyond its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.step_harness import (
    IMAGE_KINDS,
    PLAIN,
    Array,
    Step,
    Tensor,
    build_image_steps,
    build_image_steps_sanitized,
    run_step,
)
from sparsecc.backends.kernels.table import CHAIN_STAGES, ISAS
from sparsecc.passes.regions.chains import BESIDE
from tests.backends.kernels.executables import command_of, sanitized_command, sanitized_isa
from tests.backends.kernels.test_conv16 import (
    ACTIVATIONS,
    DENSITIES,
    SEEDS,
    UNIT,
    Doubles,
    Floats,
    Layer,
    normal,
)
from tests.backends.kernels.test_kernels import Window, windows

EXAMPLES = 40
ROUNDING = 2e-6
"""Of a sum, relative to its magnitudes: a few hundred float32 products."""
STEEPEST = 1.2
"""No activation grows faster than this."""
BLOCKS = ((1, 1), (4, 1), (4, 1), (8, 1), (16, 1), (16, 1), (1, 4), (3, 2))
SIDES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([(7, 7), (14, 14), (28, 28), (56, 56), (1, 50), (50, 1), (200, 3), (2, 300)]),
    st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 7)]),
)
LARGE = st.one_of(
    st.sampled_from([(112, 112), (128, 96), (400, 32), (900, 14), (3000, 5), (20, 700)]),
    st.tuples(st.integers(90, 130), st.integers(90, 130)),
)
"""Sides of images that go through a chain by rows, if it has a few channels."""
LARGE_FLOATS = 256 * 1024


@dataclass(frozen=True)
class Machine:
    """How to run a step, and how many floats its vectors hold."""

    command: list[str]
    lanes: int


@pytest.fixture(scope="module", params=list(ISAS))
def machine(request: pytest.FixtureRequest) -> Machine:
    """The executable of an instruction set."""
    return Machine(command_of(request.param, build_image_steps), ISAS[request.param].lanes)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The executable under address and undefined-behaviour sanitizers."""
    folder = tmp_path_factory.mktemp("image-steps")
    command = sanitized_command(build_image_steps_sanitized, folder)
    return Machine(command, ISAS[str(sanitized_isa())].lanes)


@dataclass(frozen=True)
class Chain:
    """Layers in turn, and the value that each of them adds: 0 is the input, -1 is none.

    From ``BESIDE`` on it is one of the inputs beside the first.
    """

    layers: Sequence[Layer]
    residuals: Sequence[int]
    x: Floats
    backwards: bool = False
    beside: Sequence[Floats] = ()

    def step(self) -> Step:
        attributes: list[int] = []
        constants: list[Array] = []
        for layer, residual in zip(self.layers, self.residuals, strict=True):
            attributes += [*layer.place(), layer.group, layer.activation, residual]
            constants += layer.constants()
        inputs = [Tensor(x, x.shape, PLAIN) for x in (self.x, *self.beside)]
        how = (self.backwards, 1 + self.backwards)
        return Step("chain", attributes, constants, inputs, *how, kinds=IMAGE_KINDS)

    def expected(self) -> tuple[Doubles, Doubles]:
        """The result, and how far rounding may take each element from it."""
        values = [self.x.astype(np.float64)]
        errors = [np.zeros_like(values[0])]
        for layer, residual in zip(self.layers, self.residuals, strict=True):
            value = layer.sums(values[-1])
            blurred = replace(layer, bias=ROUNDING * layer.bias)
            error = blurred.sums(errors[-1] + ROUNDING * np.abs(values[-1]), np.absolute)
            if residual >= BESIDE:
                value = value + self.beside[residual - BESIDE]
                error = error + ROUNDING * np.abs(self.beside[residual - BESIDE])
            elif residual >= 0:
                value = value + values[residual]
                error = error + errors[residual] + ROUNDING * np.abs(values[residual])
            values.append(layer.activated(value))
            errors.append(STEEPEST * error + ROUNDING)
        return values[-1], errors[-1]


def check(chain: Chain, command: Sequence[str]) -> None:
    got = run_step(chain.step(), command)
    want, error = chain.expected()
    assert got.dims == want.shape
    away = np.abs(got.data.reshape(got.dims) - want)
    assert (away <= error).all(), f"{(away > error).mean():.1%} are wrong, by up to {away.max()}"


# ---- drawing chains ----
def weight_of(
    rng: np.random.Generator, shape: tuple[int, ...], block: tuple[int, int], density: float
) -> Floats:
    """A weight with blocks of zeros; what it makes of numbers about one is about one again."""
    matrix = normal(rng, shape[0], int(np.prod(shape[1:])))
    rows, columns = (-(-side // b) for side, b in zip(matrix.shape, block, strict=True))
    kept = np.kron(rng.random((rows, columns)) < density, np.ones(block, np.float32))
    matrix *= kept[: matrix.shape[0], : matrix.shape[1]] / max(1, density * matrix.shape[1]) ** 0.5
    return matrix.reshape(shape).astype(np.float32)


def any_layer(
    draw: st.DrawFn, rng: np.random.Generator, inputs: int, outputs: int, window: Window, group: int
) -> Layer:
    fitting = [block for block in BLOCKS if group == 1 or outputs // group % block[0] == 0]
    block, density = draw(st.sampled_from(fitting)), draw(st.sampled_from(DENSITIES))
    weight = weight_of(rng, (outputs, *window.kernel, inputs // group), block, density)
    return Layer(weight, normal(rng, outputs), window, draw(ACTIVATIONS), group, block)


def depthwise_layer(
    draw: st.DrawFn, rng: np.random.Generator, channels: int, window: Window
) -> Layer:
    weight = normal(rng, channels, *window.kernel, 1) / window.kernel[0]
    return Layer(weight, normal(rng, channels), window, draw(ACTIVATIONS), channels, (1, 1))


def depthwise_windows(sides: tuple[int, int], lanes: int) -> list[Window]:
    """Those that a chain takes of images of these sides."""
    found = []
    for side, stride in ((3, 1), (5, 1), (3, 2)):
        columns, reach = sides[1] // stride, side // 2
        even = not (sides[0] % stride or sides[1] % stride)
        if even and (columns <= lanes or columns >= lanes + reach):
            found.append(Window((side, side), (stride, stride), pads=(reach,) * 4))
    return found


def any_window(
    draw: st.DrawFn, rng: np.random.Generator, channels: int, outputs: int, sides: tuple[int, int]
) -> Layer:
    """Any convolution that fits into the image."""
    window = draw(windows())
    if min(window.outputs(sides)) < 1 or min(sides[i] - window.reach(i) for i in (0, 1)) < 0:
        window = Window((3, 3), (2, 2), pads=(1,) * 4)
    outputs += channels == outputs == 1
    group = draw(st.sampled_from([g for g in (1, 1, 2, 3) if channels % g == outputs % g == 0]))
    if channels == group == outputs:
        group = 1
    return any_layer(draw, rng, channels, outputs, window, group)


def grown(
    draw: st.DrawFn,
    x: tuple[int, int, int, int],
    counts: st.SearchStrategy[int],
    stages: int,
    lanes: int,
) -> Chain:
    """A chain over images of such a shape, whose layers have drawn numbers of outputs."""
    rng = np.random.default_rng(draw(SEEDS))
    layers: list[Layer] = []
    residuals: list[int] = []
    shapes = [x[1:]]
    for _ in range(stages):
        channels, *sides = shapes[-1]
        fitting = depthwise_windows((sides[0], sides[1]), lanes) if channels > 1 else []
        kind = draw(st.sampled_from(["other", "1x1", "1x1"] + ["depthwise"] * 2 * bool(fitting)))
        if kind == "depthwise":
            layer = depthwise_layer(draw, rng, channels, draw(st.sampled_from(fitting)))
        elif kind == "other":
            layer = any_window(draw, rng, channels, draw(counts), (sides[0], sides[1]))
        else:
            layer = any_layer(draw, rng, channels, draw(counts), UNIT, 1)
        height, width = layer.window.outputs((sides[0], sides[1]))
        shape = (len(layer.weight), height, width)
        same = [value for value, other in enumerate(shapes) if other == shape]
        residuals.append(draw(st.sampled_from([-1, *same])))
        layers.append(layer)
        shapes.append(shape)
    return Chain(layers, residuals, normal(rng, *x), draw(st.booleans()))


@st.composite
def chains(draw: st.DrawFn, lanes: int) -> Chain:
    """Of a few small images."""
    counts = st.one_of(st.integers(1, 40), st.sampled_from([16, 24]))
    x = (draw(st.integers(1, 3)), draw(counts), *draw(SIDES))
    return grown(draw, x, counts, draw(st.integers(1, 6)), lanes)


@st.composite
def streams(draw: st.DrawFn, lanes: int) -> Chain:
    """Of a large image, with as many channels as make it go through by rows."""
    height, width = draw(LARGE)
    least = LARGE_FLOATS // 2 // (height * width) + 1
    counts = st.sampled_from([least, least, least + 1, least + 9])
    x = (draw(st.sampled_from([1, 1, 1, 2])), draw(counts), height, width)
    return grown(draw, x, counts, draw(st.integers(2, 5)), lanes)


# ---- what a chain computes ----
def test_a_chain_is_its_numpy_meaning(machine: Machine) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(chains(machine.lanes))
    def holds(chain: Chain) -> None:
        check(chain, machine.command)

    holds()


def test_a_large_image_is_the_same_by_rows(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(streams(machine.lanes))
    def holds(chain: Chain) -> None:
        check(chain, machine.command)

    holds()


def test_a_chain_has_no_undefined_behaviour(sanitized: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.one_of(chains(sanitized.lanes), streams(sanitized.lanes)))
    def holds(chain: Chain) -> None:
        check(chain, sanitized.command)

    holds()


# ---- sizes that have a way of their own ----
def layers_of(rng: np.random.Generator, channels: Sequence[int], density: float) -> list[Layer]:
    """1x1 layers between these numbers of channels."""
    shapes = [(rows, 1, 1, columns) for columns, rows in itertools.pairwise(channels)]
    weights = [weight_of(rng, shape, (4, 1), density) for shape in shapes]
    return [Layer(weight, normal(rng, len(weight)), UNIT, 1, 1, (4, 1)) for weight in weights]


def same(rng: np.random.Generator, channels: int, side: int = 3, stride: int = 1) -> Layer:
    """A depthwise layer."""
    window = Window((side, side), (stride, stride), pads=(side // 2,) * 4)
    weight = normal(rng, channels, side, side, 1) / side
    return Layer(weight, normal(rng, channels), window, 2, channels, (1, 1))


@pytest.mark.parametrize("sides", [(1, 1), (1, 2), (3, 3), (3, 5), (17, 1), (3027, 5)])
def test_nothing_is_read_behind_the_last_pixels(machine: Machine, sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    channels = LARGE_FLOATS // 2 // (sides[0] * sides[1]) + 1 if sides[0] > 1000 else 5
    layers = layers_of(rng, [channels] * 3, 0.5)
    check(Chain(layers, [-1, 0], normal(rng, 1, channels, *sides)), machine.command)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_block_with_a_residual_goes_by_rows(
    machine: Machine, batch: int, backwards: bool
) -> None:
    """Two inverted residual blocks of MobileNetV2 and the stem before them."""
    rng = np.random.default_rng(0)
    window = Window((3, 3), (2, 2), pads=(1,) * 4)
    stem = Layer(weight_of(rng, (16, 3, 3, 3), (4, 1), 1.0), normal(rng, 16), window, 2, 1, (4, 1))
    up, down = layers_of(rng, [16, 40, 16], 0.3)
    wide, last = layers_of(rng, [16, 40, 24], 0.3)
    layers = [stem, up, same(rng, 40), down, wide, same(rng, 40, stride=2), last]
    x = normal(rng, batch, 3, 224, 224)
    check(Chain(layers, [-1, -1, -1, 1, -1, -1, -1], x, backwards), machine.command)


@pytest.mark.parametrize("side", [7, 14, 28, 56])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_bottleneck_with_a_shortcut_beside(
    machine: Machine, side: int, stride: int, batch: int
) -> None:
    """A block of ResNet-50, whose residual another layer makes."""
    rng = np.random.default_rng(side)
    first, last = layers_of(rng, [48, 16], 0.3)[0], layers_of(rng, [16, 64], 0.3)[0]
    window = Window((3, 3), (stride, stride), pads=(1,) * 4)
    weight = weight_of(rng, (16, 3, 3, 16), (4, 1), 0.3)
    middle = Layer(weight, normal(rng, 16), window, 1, 1, (4, 1))
    shape = (batch, 64, *window.outputs((side, side)))
    x, beside = normal(rng, batch, 48, side, side), [normal(rng, *shape)]
    check(Chain([first, middle, last], [-1, -1, BESIDE], x, False, beside), machine.command)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_tasks_write_nothing_of_each_other(machine: Machine, side: int) -> None:
    """Tiny images of many channels, tasks in the opposite order."""
    rng = np.random.default_rng(side)
    window = Window((3, 3), pads=(1,) * 4)
    weight = weight_of(rng, (256, 3, 3, 256), (4, 1), 0.2)
    layer = Layer(weight, normal(rng, 256), window, 1, 1, (4, 1))
    layers = [layer, same(rng, 256), layer]
    check(Chain(layers, [-1, -1, 0], normal(rng, 1, 256, side, side), True), machine.command)


def test_a_residual_beside_of_another_shape_is_refused(machine: Machine) -> None:
    chain = small()
    layers, x = chain.layers, chain.x
    for shape in ((1, 8, 6, 19), (1, 9, 6, 20), (2, 8, 6, 20), (8, 6, 20)):
        beside = [np.zeros(shape, np.float32)]
        step = Chain(layers, [-1, -1, BESIDE], x, False, beside).step()
        refused(step, machine.command, "another shape than what it is added to")


def test_as_many_layers_as_a_chain_holds(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    layers = [*layers_of(rng, [3, 3], 1.0), same(rng, 3)] * (CHAIN_STAGES // 2)
    residuals = [max(-1, at - 8) for at in range(CHAIN_STAGES)]
    check(Chain(layers, residuals, normal(rng, 1, 3, 20, 20)), machine.command)


# ---- what is refused ----
def small() -> Chain:
    rng = np.random.default_rng(0)
    first, second = layers_of(rng, [8, 16, 8], 1.0)
    return Chain([first, same(rng, 16), second], [-1, -1, 0], normal(rng, 1, 8, 6, 20))


STAGE = 11
STRIDE, PAD, GROUP, ACTIVATION, RESIDUAL = 0, 2, 8, 9, 10
MIDDLE, LAST = STAGE, 2 * STAGE
BAD_ATTRIBUTES = [
    (LAST + ACTIVATION, 99, "unknown activation"),
    (LAST + ACTIVATION, -1, "unknown activation"),
    (LAST + RESIDUAL, 3, "not a value before it"),
    (LAST + RESIDUAL, -2, "not a value before it"),
    (LAST + RESIDUAL, 1, "another shape than what it is added to"),
    (LAST + RESIDUAL, 1000, "not a value before it"),
    (LAST + PAD, -1, "pads must be within"),
    (MIDDLE + STRIDE, 0, "strides must be within"),
    (MIDDLE + STRIDE, 2, "does not take images of this size"),
    (MIDDLE + PAD, 0, "does not take images of this size"),
    (MIDDLE + GROUP, 0, "group does not divide"),
    (GROUP, 3, "group does not divide"),
    (GROUP, 2, "another number of channels"),
]


def refused(step: Step, command: Sequence[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"code 3: .*{message}"):
        run_step(step, command)


def outcome(step: Step, command: Sequence[str]) -> str:
    try:
        run_step(step, command)
    except RuntimeError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize(("at", "value", "message"), BAD_ATTRIBUTES)
def test_damaged_attributes_are_refused(
    machine: Machine, at: int, value: int, message: str
) -> None:
    step = small().step()
    attributes = [*step.attributes[:at], value, *step.attributes[at + 1 :]]
    refused(replace(step, attributes=attributes), machine.command, message)


def test_a_chain_of_another_length_is_refused(machine: Machine) -> None:
    step, chain = small().step(), small()
    refused(replace(step, attributes=step.attributes[:-1]), machine.command, "malformed")
    refused(replace(step, attributes=[], constants=[]), machine.command, "malformed")
    refused(replace(step, constants=step.constants[:-1]), machine.command, "malformed")
    refused(replace(step, inputs=[*step.inputs] * 2), machine.command, "malformed")
    swapped = replace(chain, layers=[chain.layers[2], chain.layers[1], chain.layers[0]])
    refused(swapped.step(), machine.command, "another number of inputs")
    rng = np.random.default_rng(0)
    many = [same(rng, 2)] * (CHAIN_STAGES + 1)
    long = Chain(many, [-1] * len(many), normal(rng, 1, 2, 4, 4))
    refused(long.step(), machine.command, "malformed")


VALUES, INDEX, GRID, SHAPE, BIAS, PARTS = range(6)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_damaged_constants_are_refused(machine: Machine, stage: int) -> None:
    step = small().step()
    for part, message in (
        (VALUES, "values do not have the shape"),
        (INDEX, "values do not have the shape|more blocks"),
        (GRID, "grid or shape is malformed"),
        (SHAPE, "grid or shape is malformed"),
        (BIAS, "bias does not have"),
    ):
        constants = list(step.constants)
        constants[stage * PARTS + part] = constants[stage * PARTS + part][:-1]
        refused(replace(step, constants=constants), machine.command, message)


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Numbers of any size in the place of another: a sentence, or an image of some kind."""
    command = command_of("x86-64-v3", build_image_steps)
    step = small().step()
    anything = st.one_of(st.integers(-3, 40), st.sampled_from([2**31, 2**40, -(2**63), 2**63 - 1]))
    attributes, constants = list(step.attributes), list(step.constants)
    if data.draw(st.booleans()):
        attributes[data.draw(st.integers(0, len(attributes) - 1))] = data.draw(anything)
    else:
        which = PARTS * data.draw(st.integers(0, 2)) + data.draw(st.sampled_from([GRID, SHAPE]))
        array = np.array(constants[which])
        array[data.draw(st.integers(0, len(array) - 1))] = data.draw(anything)
        constants[which] = array
    damaged = replace(step, attributes=attributes, constants=constants)
    said = outcome(damaged, command)
    assert said == "fine" or "code 3: " in said


def test_an_image_that_does_not_fit_is_refused(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    step = small().step()
    for shape, message in (
        ((1, 9, 6, 20), "another number of channels"),
        ((1, 8, 0, 20), "empty"),
        ((8, 6, 20), "not a float32 image"),
    ):
        x = normal(rng, *shape)
        refused(replace(step, inputs=[Tensor(x, shape)]), machine.command, message)
    lanes = Tensor(normal(rng, 1, 1, 6, 20, 16), (1, 8, 6, 20), 1)
    refused(replace(step, inputs=[lanes]), machine.command, "not a float32 image")
    window = Window((5, 5))
    first = Layer(normal(rng, 8, 5, 5, 8), normal(rng, 8), window, 0, 1, (4, 1))
    chain = Chain([first, *layers_of(rng, [8, 8], 1.0)], [-1, -1], normal(rng, 1, 8, 4, 9))
    refused(chain.step(), machine.command, "window does not fit")
