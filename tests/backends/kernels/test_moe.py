"""The step of a mixture of experts, on every instruction set, against the op's meaning in float64.

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

from sparsecc import ops
from sparsecc.backends.kernels.step_harness import (
    TOKEN_KINDS,
    Array,
    Step,
    Tensor,
    build_token_steps,
    build_token_steps_sanitized,
    run_step,
)
from sparsecc.backends.kernels.table import EXPERT_ROWS
from sparsecc.formats.blocks import Block, pack_blocks
from tests.backends.kernels.executables import fixtures
from tests.sparsecc.ops.moe_cases import NAMES, Case, cases, drawn

command, sanitized = fixtures(build_token_steps, build_token_steps_sanitized)

EXAMPLES = 30
BLOCKS: tuple[Block, ...] = ((16, 1), (16, 1), (8, 1), (4, 1), (1, 1), (16, 2), (2, 4))
TOKENS = st.one_of(st.integers(0, 70), st.sampled_from([128, 200]))
TOLERANCE = 3e-5
"""Of the largest output."""


@dataclass(frozen=True)
class Packed:
    """A case and how its weights are packed; blocks of zeros are kept or not."""

    case: Case
    block: Block
    keep_zeros: bool

    def constants(self) -> list[Array]:
        made: list[Array] = []
        for name in ("up", "gate", "down"):
            if name not in self.case.arrays:
                continue
            weight = self.case.arrays[name]
            matrix = weight.reshape(-1, weight.shape[-1]).astype(np.float32)
            packed = pack_blocks(matrix, self.block, keep_zeros=self.keep_zeros)
            sizes = (np.array(part, np.int64) for part in (packed.grid, packed.shape))
            bias = self.case.arrays.get(f"{name}_bias", np.zeros(len(matrix)))
            made += [packed.values, packed.index, *sizes, bias.reshape(-1).astype(np.float32)]
        return made

    def step(self) -> Step:
        arrays, feeds = self.case.arrays, self.case.feeds()
        code = NAMES.index(self.case.activation)
        attributes = (code, int("gate" in arrays), len(arrays["up"]))
        inputs = [Tensor(feeds[name], feeds[name].shape) for name in ops.ROUTED]
        return Step("moe", attributes, self.constants(), inputs, kinds=TOKEN_KINDS)


def pruned(case: Case, block: Block, density: float) -> Case:
    """The case with zeros in blocks, whole rows and columns of them too."""
    rng, arrays = np.random.default_rng(1), dict(case.arrays)
    for name in ("up", "gate", "down"):
        if name in arrays:
            experts, rows, columns = arrays[name].shape
            cells = (experts * rows // block[0], -(-columns // block[1]))
            kept = np.kron(rng.random(cells) < density, np.ones(block))[:, :columns]
            arrays[name] = arrays[name] * kept.reshape(experts, rows, columns)
    return Case(case.activation, arrays)


@st.composite
def packed_cases(draw: st.DrawFn, tokens: st.SearchStrategy[int] = TOKENS) -> Packed:
    block = draw(st.sampled_from(BLOCKS))
    sides = st.integers(1, 3).map(lambda n: n * block[0])
    case = draw(cases(tokens, sides, sides))
    density = draw(st.sampled_from([1.0, 1.0, 0.5, 0.0]))
    return Packed(pruned(case, block, density), block, draw(st.booleans()))


def result(command: Sequence[str], step: Step) -> np.ndarray:
    made = run_step(step, command)
    return made.data.astype(np.float32).reshape(made.dims)


def check(command: Sequence[str], packed: Packed) -> None:
    got, wanted = result(command, packed.step()), packed.case.wanted()
    scale = max(1.0, np.abs(wanted).max(initial=0.0))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * scale)


def test_it_is_the_meaning_of_the_op(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(packed_cases())
    def holds(packed: Packed) -> None:
        check(command, packed)

    holds()


@pytest.mark.parametrize("block", [(16, 1), (4, 1)])
def test_wide_layers_in_several_groups_of_tiles(command: list[str], block: Block) -> None:
    """More than fits beside each other, so that experts come in several turns."""
    case = drawn(tokens=150, experts=3, chosen=2, features=208, hidden=1200, gated=True, bias=True)
    check(command, Packed(case, block, keep_zeros=True))


@pytest.mark.parametrize("bias", [False, True])
def test_many_features_of_few_neurons_in_several_parts(command: list[str], bias: bool) -> None:
    """Tokens of small experts are multiplied where they lie, some features at a time."""
    case = drawn(tokens=90, experts=3, chosen=2, features=592, hidden=48, gated=True, bias=bias)
    check(command, Packed(case, (16, 1), keep_zeros=True))


@pytest.mark.parametrize("block", [(16, 1), (4, 1)])
def test_the_order_of_tasks_does_not_matter(command: list[str], block: Block) -> None:
    """Threads take tasks in any order; a sum is made by one of them."""
    case = drawn(tokens=90, experts=5, chosen=3, features=64, hidden=96, gated=True)
    step = Packed(case, block, keep_zeros=True).step()
    backwards = result(command, replace(step, backwards=True))
    assert result(command, step).tobytes() == backwards.tobytes()


def test_what_is_no_number_stays_in_its_token(command: list[str]) -> None:
    case = drawn(tokens=40, experts=2, chosen=1, features=32, hidden=32, activation="relu")
    wanted = case.wanted()
    case.arrays["X"][7, 3] = np.nan
    got = result(command, Packed(case, (16, 1), keep_zeros=True).step())
    assert np.isnan(got[7]).all()
    np.testing.assert_allclose(np.delete(got, 7, 0), np.delete(wanted, 7, 0), rtol=0, atol=1e-5)


def test_sanitizers_find_nothing(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(packed_cases())
    def holds(packed: Packed) -> None:
        check(sanitized, packed)

    holds()


# ---- what is refused ----
PLAIN = Packed(drawn(tokens=6, experts=3, chosen=2, features=32, hidden=16), (16, 1), True)


def changed(name: str, array: Array) -> Step:
    step = PLAIN.step()
    tensors = list(step.inputs)
    tensors[ops.ROUTED.index(name)] = Tensor(array, array.shape)
    return replace(step, inputs=tensors)


def with_expert(expert: int) -> Step:
    experts = PLAIN.case.feeds()["experts"].copy()
    experts[4, 1] = expert
    return changed("experts", experts)


def with_gate(gate: float) -> Step:
    gates = PLAIN.case.feeds()["gates"].copy()
    gates[4, 1] = gate
    return changed("gates", gates)


def with_block(block: Block) -> Step:
    return Packed(PLAIN.case, block, keep_zeros=True).step()


def attributes(*numbers: int) -> Step:
    return replace(PLAIN.step(), attributes=numbers)


def mixed() -> Step:
    step, other = PLAIN.step(), with_block((4, 1))
    return replace(step, constants=[*step.constants[:5], *other.constants[5:]])


REFUSED = {
    "no such expert": (with_expert(3), "expert that does not exist"),
    "negative": (with_expert(-1), "expert that does not exist"),
    "huge": (with_expert(2**40), "expert that does not exist"),
    "gate": (with_gate(np.nan), "not a number"),
    "features": (changed("X", np.zeros((6, 31), np.float32)), "the features of its weights"),
    "tokens": (changed("X", np.zeros((5, 32), np.float32)), "for each token"),
    "gates": (changed("gates", np.zeros((6, 3), np.float32)), "a gate for each"),
    "none": (changed("experts", np.zeros((6, 0), np.int64)), "a gate for each"),
    "type": (changed("experts", np.zeros((6, 2), np.int32)), "must be int64"),
    "activation": (attributes(99, 0, 3), "unknown activation"),
    "too few": (attributes(1, 0), "three attributes"),
    "gated": (attributes(1, 1, 3), "missing"),
    "no experts": (attributes(1, 0, 0), "damaged"),
    "count": (attributes(1, 0, 7), "no multiple"),
    "few": (attributes(1, 0, 6), "divide 16, and the rows"),
    "high": (with_block((2 * EXPERT_ROWS, 1)), "divide 16"),
    "mixed": (mixed(), "either all weights or none"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused(command: list[str], what: str) -> None:
    step, said = REFUSED[what]
    with pytest.raises(RuntimeError, match=said):
        run_step(step, command)


def test_up_and_down_have_to_fit(command: list[str]) -> None:
    step, other = PLAIN.step(), drawn(tokens=6, experts=3, chosen=2, features=48, hidden=16)
    down = Packed(other, (16, 1), keep_zeros=True).constants()[5:]
    with pytest.raises(RuntimeError, match="do not fit each other"):
        run_step(replace(step, constants=[*step.constants[:5], *down]), command)
