"""Int8 convolutions and pools against exact integer arithmetic, on every instruction set, with and
without its instruction for products of bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.step_harness import Step, from_c4, run_step, to_c4
from tests.backends.kernels.int8_cases import (
    Conv,
    Machine,
    Pool,
    Quant,
    blocks_of,
    bytes_of,
    check_bytes,
    check_conv,
    check_depthwise,
    check_pool,
    conv_of,
    convs,
    depthwise,
    pools,
)
from tests.backends.kernels.test_kernels import Window

EXAMPLES = 25


def test_conv_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(convs())
    def holds(conv: Conv) -> None:
        check_conv(conv, int8_machine)

    holds()


def test_depthwise_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(depthwise())
    def holds(conv: Conv) -> None:
        check_depthwise(conv, int8_machine)

    holds()


def test_maxpool_is_exact(int8_machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(pools())
    def holds(pool: Pool) -> None:
        check_pool(pool, int8_machine)

    holds()


def test_a_large_image_is_pooled_in_several_bands(int8_machine: Machine) -> None:
    x = bytes_of(np.random.default_rng(0), (2, 5, 130, 70))
    check_pool(Pool(x, Window((3, 3), (2, 2), pads=(1, 1, 1, 1))), int8_machine)


@pytest.mark.parametrize(("kernel", "side"), [(3, 60), (1, 40), (5, 33)])
def test_large_images_take_several_bands(int8_machine: Machine, kernel: int, side: int) -> None:
    rng = np.random.default_rng(0)
    window = Window((kernel, kernel), pads=(kernel // 2,) * 4)
    x, quant = bytes_of(rng, (2, 130, side, 70)), Quant(7, 100, 0, 255)
    weight = blocks_of(rng, (18, kernel, kernel, 130), 0.3)
    check_conv(conv_of(rng, x, weight, window, quant), int8_machine)
    one = rng.integers(-128, 128, (130, kernel, kernel, 1), np.int8)
    check_depthwise(conv_of(rng, x, one, window, quant), int8_machine)


def _small() -> Step:
    rng = np.random.default_rng(0)
    weight = blocks_of(rng, (8, 1, 1, 8), 1.0)
    return conv_of(
        rng, bytes_of(rng, (1, 8, 2, 2)), weight, Window((1, 1)), Quant(0, 0, 0, 255)
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
def test_a_bad_weight_is_refused(message: str, int8_sanitized: Machine) -> None:
    step = _small()
    where, array = BAD[message]
    constants = [*step.constants]
    constants[where] = array
    attributes = [*step.attributes[:8], 255, *step.attributes[9:]]
    with pytest.raises(RuntimeError, match=message):
        run_step(replace(step, constants=constants, attributes=attributes), int8_sanitized.command)


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
def test_a_bad_attribute_is_refused(
    at: int, value: int, message: str, int8_sanitized: Machine
) -> None:
    step = _small()
    attributes = [*step.attributes]
    attributes[at] = value
    with pytest.raises(RuntimeError, match=message):
        run_step(replace(step, attributes=attributes), int8_sanitized.command)


def test_another_number_of_channels_is_refused(int8_sanitized: Machine) -> None:
    wrong = to_c4(np.zeros((1, 9, 2, 2), np.uint8), 0)
    with pytest.raises(RuntimeError, match="number of channels"):
        run_step(replace(_small(), inputs=[wrong]), int8_sanitized.command)


def test_nothing_is_undefined(int8_sanitized: Machine) -> None:
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
        check_bytes(from_c4(run_step(step, int8_sanitized.command), 0), case.exact())

    holds()
