"""Chains of convolutions, on every instruction set, against numpy in float64.

The executable puts a page without access behind each array, so that these tests also see a read or
a write beyond its end.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.step_harness import build_image_steps_sanitized
from sparsecc.backends.kernels.table import CHAIN_BESIDE, CHAIN_STAGES, ISAS
from tests.backends.kernels.chain_cases import Chain, Machine, check, layers_of, same, weight_of
from tests.backends.kernels.executables import sanitized_command, sanitized_isa
from tests.backends.kernels.layers import ACTIVATIONS, DENSITIES, SEEDS, UNIT, Layer, normal
from tests.backends.kernels.test_kernels import Window, windows

EXAMPLES = 40
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
DEPTHWISE = [
    Window((side, side), (stride, stride), pads=(side // 2,) * 4)
    for side in (3, 5)
    for stride in (1, 2)
]
"""Those that read rows of most images where they lie."""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The executable under address and undefined-behaviour sanitizers."""
    command = sanitized_command(build_image_steps_sanitized, tmp_path_factory)
    return Machine(command, ISAS[str(sanitized_isa())].lanes)


# ---- drawing chains ----
def any_layer(
    draw: st.DrawFn, rng: np.random.Generator, inputs: int, outputs: int, window: Window, group: int
) -> Layer:
    fitting = [block for block in BLOCKS if group == 1 or outputs // group % block[0] == 0]
    block, density = draw(st.sampled_from(fitting)), draw(st.sampled_from(DENSITIES))
    weight = weight_of(rng, (outputs, *window.kernel, inputs // group), block, density)
    return Layer(weight, normal(rng, outputs), window, draw(ACTIVATIONS), group, block)


def depthwise_layer(
    draw: st.DrawFn, rng: np.random.Generator, channels: int, sides: tuple[int, int]
) -> Layer:
    window = draw(st.one_of(st.sampled_from(DEPTHWISE), windows()))
    if min(window.outputs(sides)) < 1 or min(sides[i] - window.reach(i) for i in (0, 1)) < 0:
        window = DEPTHWISE[0]
    weight = normal(rng, channels, *window.kernel, 1) / window.kernel[0]
    return Layer(weight, normal(rng, channels), window, draw(ACTIVATIONS), channels, (1, 1))


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
) -> Chain:
    """A chain over images of such a shape, whose layers have drawn numbers of outputs."""
    rng = np.random.default_rng(draw(SEEDS))
    layers: list[Layer] = []
    residuals: list[int] = []
    shapes = [x[1:]]
    for _ in range(stages):
        channels, *sides = shapes[-1]
        kind = draw(st.sampled_from(["other", "1x1", "1x1"] + ["depthwise"] * 2 * (channels > 1)))
        if kind == "depthwise":
            layer = depthwise_layer(draw, rng, channels, (sides[0], sides[1]))
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
    backwards, scaled = draw(st.booleans()), 0 not in residuals and draw(st.booleans())
    factors = normal(rng, *x[:2], 1, 1) if scaled else None
    return Chain(layers, residuals, normal(rng, *x), backwards, factors=factors)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Of a few small images."""
    counts = st.one_of(st.integers(1, 40), st.sampled_from([16, 24]))
    x = (draw(st.integers(1, 3)), draw(counts), *draw(SIDES))
    return grown(draw, x, counts, draw(st.integers(1, 6)))


@st.composite
def streams(draw: st.DrawFn) -> Chain:
    """Of a large image, with as many channels as make it go through by rows."""
    height, width = draw(LARGE)
    least = LARGE_FLOATS // 2 // (height * width) + 1
    counts = st.sampled_from([least, least, least + 1, least + 9])
    x = (draw(st.sampled_from([1, 1, 1, 2])), draw(counts), height, width)
    return grown(draw, x, counts, draw(st.integers(2, 5)))


# ---- what a chain computes ----
def test_a_chain_is_its_numpy_meaning(machine: Machine) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(chains())
    def holds(chain: Chain) -> None:
        check(chain, machine.command)

    holds()


def test_a_large_image_is_the_same_by_rows(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(streams())
    def holds(chain: Chain) -> None:
        check(chain, machine.command)

    holds()


def test_a_chain_has_no_undefined_behaviour(sanitized: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.one_of(chains(), streams()))
    def holds(chain: Chain) -> None:
        check(chain, sanitized.command)

    holds()


# ---- sizes that have a way of their own ----
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
    check(Chain([first, middle, last], [-1, -1, CHAIN_BESIDE], x, False, beside), machine.command)


@pytest.mark.parametrize("side", [7, 14, 28])
@pytest.mark.parametrize("batch", [1, 3])
def test_factors_for_the_channels_of_the_first_layer(
    machine: Machine, side: int, batch: int
) -> None:
    """What follows the gate of a squeeze-and-excite: a projection with a residual and so on."""
    rng = np.random.default_rng(side)
    down, up = layers_of(rng, [72, 24, 72], 0.3)
    layers = [down, up, same(rng, 72, 5, stride=1 + (side % 2 == 0))]
    x, beside = normal(rng, batch, 72, side, side), [normal(rng, batch, 24, side, side)]
    factors = rng.random((batch, 72, 1, 1), np.float32)
    check(Chain(layers, [CHAIN_BESIDE, -1, -1], x, False, beside, factors), machine.command)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_tasks_write_nothing_of_each_other(machine: Machine, side: int) -> None:
    """Tiny images of many channels, tasks in the opposite order."""
    rng = np.random.default_rng(side)
    window = Window((3, 3), pads=(1,) * 4)
    weight = weight_of(rng, (256, 3, 3, 256), (4, 1), 0.2)
    layer = Layer(weight, normal(rng, 256), window, 1, 1, (4, 1))
    layers = [layer, same(rng, 256), layer]
    check(Chain(layers, [-1, -1, 0], normal(rng, 1, 256, side, side), True), machine.command)


def test_as_many_layers_as_a_chain_holds(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    layers = [*layers_of(rng, [3, 3], 1.0), same(rng, 3)] * (CHAIN_STAGES // 2)
    residuals = [max(-1, at - 8) for at in range(CHAIN_STAGES)]
    check(Chain(layers, residuals, normal(rng, 1, 3, 20, 20)), machine.command)
