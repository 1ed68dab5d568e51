"""The step that searches blocks, on every instruction set, against the meaning of the op.

The executable puts a page without access behind each array, so that these tests also see a read or
a write beyond its end; what lies beside the heads of a row is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.attention import HEADS_FIRST, TOKENS_FIRST
from sparsecc.backends.kernels.attention import Search as Settings
from sparsecc.backends.kernels.step_harness import (
    TOKEN_KINDS,
    Array,
    Step,
    Tensor,
    build_token_steps,
    build_token_steps_sanitized,
    run_outputs,
)
from tests.backends.kernels.attention_cases import DIMS, LAYOUTS, TOKENS, laid_out
from tests.backends.kernels.executables import fixtures
from tests.sparsecc.ops.search_cases import Search, searches

command, sanitized = fixtures(build_token_steps, build_token_steps_sanitized)

EXAMPLES = 40


@dataclass(frozen=True)
class Laid:
    """A search, how its queries and keys lie, and whether tasks run in descending order."""

    case: Search
    layouts: tuple[int, int]
    offsets: tuple[int, int]
    backwards: bool

    def step(self) -> Step:
        feeds, how = self.case.feeds(), self.case.attributes
        q, k = (
            laid_out(feeds[name], self.layouts[at], self.offsets[at], four=False)
            for at, name in enumerate("QK")
        )
        made = Settings(
            heads=feeds["Q"].shape[1],
            groups=feeds["K"].shape[1],
            dim=feeds["Q"].shape[3],
            scale=how["scale"],
            full=how["full"],
            sparsity=how["sparsity"],
            words=(how["words"][0], how["words"][1]),
            searches=tuple(how["searches"]),
            layouts=self.layouts,
            offsets=self.offsets,
        )
        inputs = tensors(q, k, feeds["index"], feeds["step"])
        return step(made, [feeds["grid"]], inputs, backwards=self.backwards)


def tensors(*arrays: Array) -> list[Tensor]:
    return [Tensor(array, array.shape) for array in arrays]


def step(
    made: Settings, constants: Sequence[Array], inputs: Sequence[Tensor], *, backwards: bool = False
) -> Step:
    return Step(
        "attention_blocks", made.attributes, constants, inputs, backwards, kinds=TOKEN_KINDS
    )


@st.composite
def laid(draw: st.DrawFn) -> Laid:
    layouts = draw(st.tuples(LAYOUTS, LAYOUTS))
    beside = draw(st.tuples(*[st.sampled_from([0, 3])] * 2))
    q, k = (0 if at == HEADS_FIRST else n for at, n in zip(layouts, beside, strict=True))
    return Laid(draw(searches(TOKENS, DIMS)), layouts, (q, k), draw(st.booleans()))


def result(command: Sequence[str], of: Step) -> np.ndarray:
    (made,) = run_outputs(of, command)
    return made.data.reshape(made.dims)


def test_it_is_the_meaning_of_the_op(command: list[str]) -> None:
    @settings(max_examples=3 * EXAMPLES)
    @given(laid())
    def holds(drawn: Laid) -> None:
        drawn.case.check(result(command, drawn.step()))

    holds()


@pytest.mark.parametrize("block", [16, 64, 128, 200])
def test_blocks_of_common_sizes(command: list[str], block: int) -> None:
    rng, side, dim = np.random.default_rng(block), 5, 64
    tokens = side * block - 7
    case = Search(
        {
            "Q": rng.standard_normal((1, 4, tokens, dim)),
            "K": rng.standard_normal((1, 2, tokens, dim)),
            "index": np.full(4 * side * side, -1, np.int32),
            "step": np.array([0]),
            "grid": np.array([4, side, side, block, block]),
        },
        {"scale": 0.3, "full": 0, "searches": [], "sparsity": 0.5, "words": [3, 0]},
    )
    drawn = Laid(case, (HEADS_FIRST, HEADS_FIRST), (0, 0), False)
    got = result(command, drawn.step())
    case.check(got)
    again = result(command, replace(drawn, backwards=True).step())
    assert got.tobytes() == again.tobytes()


def test_large_scores_do_not_overflow(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    case = Search(
        {
            "Q": 1e3 * rng.standard_normal((1, 1, 40, 16)),
            "K": 1e3 * rng.standard_normal((1, 1, 90, 16)),
            "index": np.full(3 * 6, -1, np.int32),
            "step": np.array([9]),
            "grid": np.array([1, 3, 6, 16, 16]),
        },
        {"scale": 1.0, "full": 0, "searches": [9], "sparsity": 0.5, "words": [0, 0]},
    )
    case.check(result(command, Laid(case, (HEADS_FIRST, HEADS_FIRST), (0, 0), False).step()))


def test_what_is_no_number_leaves_a_sound_index(command: list[str]) -> None:
    q = np.ones((1, 2, 40, 16), np.float32)
    q[0, 0, 7, 3] = np.nan
    got = result(command, replace(WHOLE, inputs=[*tensors(q, q), *WHOLE.inputs[2:]]))
    count = int(np.count_nonzero(got >= 0))
    assert 6 <= count < 18
    assert np.all(np.diff(got[:count]) > 0)
    assert np.all(got[count:] == -1)
    assert np.all(np.bincount(got[:count] // 3, minlength=6) >= 1)


# ---- what is refused ----
HOW = Settings(2, 2, 16, 1.0, 0, 0.5, (0, 0), (3,), layouts=(HEADS_FIRST, HEADS_FIRST))
GRID = np.array([2, 3, 3, 16, 16])
X = np.ones((1, 2, 40, 16), np.float32)
EMPTY, STEP = np.full(18, -1, np.int32), np.array([3])
WHOLE = step(HOW, [GRID], tensors(X, X, EMPTY, STEP))


def changed(place: int, value: int) -> Step:
    attributes = list(HOW.attributes)
    attributes[place] = value
    return replace(WHOLE, attributes=attributes)


def given_(**arrays: np.ndarray) -> Step:
    inputs = {"q": X, "k": X, "index": EMPTY, "step": STEP} | arrays
    return replace(WHOLE, inputs=tensors(*inputs.values()))


BAD_STEPS = {
    "twelve attributes": replace(WHOLE, attributes=HOW.attributes[:11]),
    "reads q, k, the index": replace(WHOLE, inputs=WHOLE.inputs[:3]),
    "no multiple": changed(1, 3),
    "at most 256": changed(2, 257),
    "malformed": changed(3, 9),
    "column is out of range": changed(5, -1),
    "sparsity is not": changed(9, int(np.float32(1.0).view(np.uint32))),
    "words are out of range": changed(10, -1),
    "another number of heads": replace(WHOLE, constants=[np.array([1, 3, 3, 16, 16])]),
    "no blocks": replace(WHOLE, constants=[np.array([2, 0, 3, 16, 16])]),
    "do not cover": replace(WHOLE, constants=[np.array([2, 3, 4, 16, 16])]),
    "five numbers of int64": replace(WHOLE, constants=[GRID.astype(np.int32)]),
    "different batch": given_(k=np.ones((2, 2, 40, 16), np.float32)),
    "those of .batch, heads": given_(q=np.ones((1, 1, 40, 16), np.float32)),
    "as long as the grid has blocks": given_(index=EMPTY[:17]),
    "a row of int32": given_(index=EMPTY.astype(np.int64)),
    "one number of int64": given_(step=np.array([1, 2])),
    "of three dimensions": replace(changed(3, TOKENS_FIRST), inputs=tensors(X, X, EMPTY, STEP)),
}


@pytest.mark.parametrize("message", BAD_STEPS)
def test_a_bad_step_is_refused(sanitized: list[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_outputs(BAD_STEPS[message], sanitized)


@pytest.mark.parametrize("index", [[3, 0], [0, 18], [-2], [0, -1, 3], [0, 0], [2**31 - 1]])
def test_an_index_of_a_call_is_checked(sanitized: list[str], index: list[int]) -> None:
    padded = np.array([*index, *[-1] * (18 - len(index))], np.int32)
    with pytest.raises(RuntimeError, match="do not ascend inside the grid"):
        run_outputs(given_(index=padded), sanitized)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(laid())
    def holds(drawn: Laid) -> None:
        drawn.case.check(result(sanitized, drawn.step()))

    holds()
