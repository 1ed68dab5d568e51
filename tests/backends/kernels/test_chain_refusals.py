"""Damaged and unfit chains are refused with a sentence, on every instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.step_harness import Step, Tensor, build_image_steps, run_step
from sparsecc.backends.kernels.table import CHAIN_BESIDE, CHAIN_STAGES
from tests.backends.kernels.chain_cases import Chain, Machine, layers_of, same
from tests.backends.kernels.executables import command_of
from tests.backends.kernels.layers import Layer, normal
from tests.backends.kernels.test_kernels import Window

EXAMPLES = 40


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
    (MIDDLE + PAD, 9, "another shape than what it is added to"),
    (MIDDLE + GROUP, 0, "group does not divide"),
    (GROUP, 3, "group does not divide"),
    (GROUP, 2, "another number of channels"),
]


FACTORS = 3 * STAGE
BAD_ATTRIBUTES += [
    (FACTORS, 0, "not one of its inputs"),
    (FACTORS, -2, "not one of its inputs"),
    (FACTORS, CHAIN_BESIDE, "not one of its inputs"),
    (FACTORS, 2**62, "not one of its inputs"),
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


def test_a_residual_beside_of_another_shape_is_refused(machine: Machine) -> None:
    chain = small()
    layers, x = chain.layers, chain.x
    for shape in ((1, 8, 6, 19), (1, 9, 6, 20), (2, 8, 6, 20), (8, 6, 20)):
        beside = [np.zeros(shape, np.float32)]
        step = Chain(layers, [-1, -1, CHAIN_BESIDE], x, False, beside).step()
        refused(step, machine.command, "another shape than what it is added to")


def test_factors_of_another_shape_are_refused(machine: Machine) -> None:
    chain = replace(small(), residuals=[-1, -1, -1])
    for shape in ((1, 7, 1, 1), (2, 8, 1, 1), (1, 8), (1, 8, 6, 20)):
        step = replace(chain, factors=np.ones(shape, np.float32)).step()
        refused(step, machine.command, "not one factor for each channel")
    both = replace(small(), factors=np.ones((1, 8, 1, 1), np.float32))
    refused(both.step(), machine.command, "residual is its input before the factors")
