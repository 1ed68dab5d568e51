"""Experts whose weights are codes, on every instruction set, against the op in float64."""

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
from sparsecc.formats.codes import Codes, pack_codes, round_to_codes
from tests.backends.kernels.executables import fixtures
from tests.backends.kernels.test_moe import EXAMPLES, TOKENS, TOLERANCE, pruned, result
from tests.sparsecc.ops.moe_cases import NAMES, Case, cases, drawn, of_codes

command, sanitized = fixtures(build_token_steps, build_token_steps_sanitized)


@dataclass(frozen=True)
class Coded:
    """A case whose weights are rounded to codes, and how these are packed."""

    raw: Case
    bits: int
    group: int | None = None
    keep_zeros: bool = True

    @property
    def case(self) -> Case:
        return of_codes(self.raw, self.bits, self.group)

    def constants(self) -> list[Array]:
        made: list[Array] = []
        for name in ("up", "gate", "down"):
            if name not in self.raw.arrays:
                continue
            weight = self.raw.arrays[name]
            matrix = weight.reshape(-1, weight.shape[-1]).astype(np.float32)
            codes = round_to_codes(matrix, self.bits, self.group)
            packed, scales = pack_codes(codes, bits=self.bits, keep_zeros=self.keep_zeros)
            sizes = (np.array(part, np.int64) for part in (packed.grid, packed.shape))
            bias = self.raw.arrays.get(f"{name}_bias", np.zeros(len(matrix)))
            bias = bias.reshape(-1).astype(np.float32)
            made += [packed.values, packed.index, *sizes, bias, scales]
        return made

    def step(self) -> Step:
        arrays, feeds = self.raw.arrays, self.raw.feeds()
        code, group = NAMES.index(self.case.activation), self.group or 1 << 20
        attributes = (code, int("gate" in arrays), len(arrays["up"]), group)
        inputs = [Tensor(feeds[name], feeds[name].shape) for name in ops.ROUTED]
        return Step("moe", attributes, self.constants(), inputs, kinds=TOKEN_KINDS)


@st.composite
def coded_cases(draw: st.DrawFn) -> Coded:
    sides = st.integers(1, 5).map(lambda n: n * 16)
    case, bits = draw(cases(TOKENS, sides, sides)), draw(st.sampled_from([4, 8]))
    group = draw(st.sampled_from([None, None, 16, 32, 64]))
    keep_zeros = group is not None or draw(st.booleans())
    density = draw(st.sampled_from([1.0, 0.5, 0.0]))
    case = pruned(case, (16, 8 // bits), density)
    return Coded(case, bits, group, keep_zeros)


def check(command: Sequence[str], coded: Coded) -> None:
    got, wanted = result(command, coded.step()), coded.case.wanted()
    scale = max(1.0, np.abs(wanted).max(initial=0.0))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * scale)


def test_it_is_the_meaning_of_the_op(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(coded_cases())
    def holds(coded: Coded) -> None:
        check(command, coded)

    holds()


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 32), (4, None), (4, 64)])
def test_wide_layers(command: list[str], bits: int, group: int | None) -> None:
    """More inputs than become numbers at a time, and experts in several turns."""
    case = drawn(tokens=150, experts=3, chosen=2, features=208, hidden=1200, gated=True, bias=True)
    check(command, Coded(case, bits, group))


@pytest.mark.parametrize("bits", [4, 8])
def test_every_code(command: list[str], bits: int) -> None:
    """The least and the largest one, and all between them."""
    coded = Coded(drawn(tokens=9, experts=2, chosen=1, features=16, hidden=256), bits)
    codes = (np.arange(32 * 256).reshape(32, 256) % 2**bits - 2 ** (bits - 1)).astype(np.int8)
    exact = Codes(codes, np.full((32, 1), 1 / 8, np.float32), 256, bits)
    packed, scales = pack_codes(exact, bits=bits, keep_zeros=True)
    step, arrays = coded.step(), dict(coded.case.arrays)
    constants = [*step.constants[:6], packed.values, *step.constants[7:11], scales]
    arrays["down"] = (codes / 8.0).reshape(2, 16, 256)
    wanted = Case(coded.raw.activation, arrays).wanted()
    got = result(command, replace(step, constants=constants))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def test_sanitizers_find_nothing(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(coded_cases())
    def holds(coded: Coded) -> None:
        check(sanitized, coded)

    holds()


# ---- what is refused ----
PLAIN = Coded(drawn(tokens=6, experts=3, chosen=2, features=32, hidden=16), 8)
GROUPED = Coded(drawn(tokens=6, experts=3, chosen=2, features=32, hidden=32), 4, 16)


def with_constant(coded: Coded, at: int, array: Array) -> Step:
    step = coded.step()
    constants = list(step.constants)
    constants[at] = array
    return replace(step, constants=constants)


def with_group(coded: Coded, group: int) -> Step:
    step = coded.step()
    return replace(step, attributes=(*step.attributes[:-1], group))


def without_some() -> Step:
    step = GROUPED.step()
    values, index = step.constants[:2]
    return replace(step, constants=[values[1:], index[1:], *step.constants[2:]])


REFUSED = {
    "scales": (with_constant(PLAIN, 5, np.ones((3, 2, 16), np.float32)), "scales do not have"),
    "rows": (with_constant(PLAIN, 5, np.ones((2, 1, 16), np.float32)), "scales do not have"),
    "ints": (with_constant(PLAIN, 5, np.ones((3, 1, 16), np.int32)), "scales do not have"),
    "floats": (with_constant(PLAIN, 0, np.ones((96, 16), np.float32)), "codes do not have"),
    "nibbles": (with_constant(PLAIN, 0, np.ones((96, 16), np.uint8)), "codes do not have"),
    "fewer": (with_constant(PLAIN, 0, np.ones((95, 16), np.int8)), "codes do not have"),
    "group": (with_group(GROUPED, 24), "multiple of 16 inputs"),
    "negative": (with_group(GROUPED, -16), "damaged"),
    "none": (with_group(GROUPED, 0), "damaged"),
    "other group": (with_group(GROUPED, 32), "scales do not have"),
    "sparse": (without_some(), "one scale for each row"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused(command: list[str], what: str) -> None:
    step, said = REFUSED[what]
    with pytest.raises(RuntimeError, match=said):
        run_step(step, command)


def test_experts_of_other_than_multiples_of_16_rows_are_refused(command: list[str]) -> None:
    step = PLAIN.step()
    with pytest.raises(RuntimeError, match=r"multiples of 16 rows"):
        run_step(replace(step, attributes=(*step.attributes[:2], 2, step.attributes[3])), command)
