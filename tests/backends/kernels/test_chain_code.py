"""Generated code in chains of convolutions, on every instruction set, against numpy in float64.

Only AVX-512 runs it; elsewhere its weights go through the kernel that reads positions as data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.codegen.code_table import CodeTable, Pattern, code_table
from sparsecc.backends.kernels import step_harness
from sparsecc.backends.kernels.table import CHAIN_BESIDE, ISAS
from sparsecc.cost.roofline import GENERATED_ISA
from tests.backends.kernels.chain_cases import Chain, Machine, check, layers_of, same, with_code
from tests.backends.kernels.layers import normal
from tests.backends.kernels.test_chain import EXAMPLES, chains, streams

GENERATED_LANES = ISAS[GENERATED_ISA].lanes


def test_code_is_the_same_in_a_chain(machine: Machine) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.one_of(chains(), streams()).map(with_code))
    def holds(chain: Chain) -> None:
        check(chain, machine.command)

    holds()


@pytest.mark.parametrize("side", [3, 7, 14, 28, 56])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backwards", [False, True])
def test_code_takes_several_strips_and_chunks(
    machine: Machine, side: int, batch: int, backwards: bool
) -> None:
    """Inverted residual blocks that go by rows or layer by layer, and a residual from beside."""
    rng = np.random.default_rng(side)
    up, down = layers_of(rng, [48, 300, 48], 0.3)
    deep = layers_of(rng, [48, 700, 48], 0.3)
    layers = [up, same(rng, 300), down, *deep]
    x, beside = normal(rng, batch, 48, side, side), normal(rng, batch, 48, side, side)
    chain = Chain(layers, [-1, -1, 0, -1, CHAIN_BESIDE], x, backwards, [beside])
    check(with_code(chain), machine.command)


def test_weights_that_factors_multiply_are_read_as_data(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    layers = layers_of(rng, [40, 64, 33], 0.3)
    x, factors = normal(rng, 2, 40, 9, 11), normal(rng, 2, 40, 1, 1)
    check(with_code(Chain(layers, [-1, -1], x, factors=factors)), machine.command)


def case() -> Chain:
    rng = np.random.default_rng(0)
    layers = [*layers_of(rng, [40, 64], 0.3), same(rng, 64), *layers_of(rng, [64, 33], 0.3)]
    return with_code(Chain(layers, [-1] * 3, normal(rng, 1, 40, 9, 11)))


def test_code_is_what_runs_on_the_instruction_set_it_is_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def traps(patterns: Iterable[Pattern]) -> CodeTable:
        table = code_table(patterns)
        return replace(table, text=b"\xcc" * len(table.text))

    monkeypatch.setattr(step_harness, "code_table", traps)
    if machine.lanes == GENERATED_LANES:
        with pytest.raises(RuntimeError):
            check(case(), machine.command)
    else:
        check(case(), machine.command)


def test_code_of_other_positions_is_not_run(machine: Machine) -> None:
    chain = case()
    other = [replace(each, weight=np.roll(each.weight, 1)) for each in chain.layers]
    step, patterns = chain.step(), replace(chain, layers=other).step().patterns
    assert {each.key for each in patterns}.isdisjoint(each.key for each in step.patterns)
    got = step_harness.run_step(replace(step, patterns=patterns), machine.command)
    want, error = chain.expected()
    assert (np.abs(got.data.reshape(got.dims) - want) <= error).all()


def test_code_that_is_cut_off_is_not_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of other lengths than the weight has: the table of another pattern under its key."""

    def short(patterns: Iterable[Pattern]) -> CodeTable:
        table = code_table(patterns)
        cells = table.cells.copy()
        cells[:, 1] = np.maximum(cells[:, 1] - 1, 0)
        return replace(table, cells=cells, text=b"\xcc" * len(table.text))

    monkeypatch.setattr(step_harness, "code_table", short)
    check(case(), machine.command)
