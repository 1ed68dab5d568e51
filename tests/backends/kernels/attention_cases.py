"""Attentions as steps: the cases of the op, laid out in every way that a step reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.kernels.attention import (
    CONSTANT,
    HEADS_FIRST,
    INPUT,
    NONE,
    ROWS,
    TOKENS_FIRST,
    Attention,
)
from sparsecc.backends.kernels.step_harness import TOKEN_KINDS, Step, Tensor
from tests.sparsecc.ops.attention_cases import Case, cases, masks

Floats = NDArray[np.float32]
LAYOUTS = st.sampled_from([ROWS, ROWS, TOKENS_FIRST, HEADS_FIRST])
TOKENS = st.one_of(st.integers(1, 70), st.sampled_from([128, 129, 260]))
DIMS = st.sampled_from([1, 5, 16, 20, 32, 64, 136])


def laid_out(x: Floats, layout: int, first: int, *, four: bool) -> Floats:
    """Heads ``[batch, heads, tokens, features]`` as an operand has them, behind NaN columns."""
    if layout == HEADS_FIRST:
        batch, _, tokens, dim = x.shape
        beside = np.full((batch, first // dim, tokens, dim), np.nan, np.float32)
        return np.concatenate([beside, x, beside], axis=1)
    rows = x.transpose(0, 2, 1, 3)
    if layout == ROWS and four and not first:
        return np.ascontiguousarray(rows)
    rows = rows.reshape(*rows.shape[:2], -1)
    beside = np.full((*rows.shape[:2], first + 3), np.nan, np.float32)
    rows = np.concatenate([beside[..., :first], rows, beside[..., : 3 * (first > 0)]], axis=-1)
    return np.ascontiguousarray(rows.swapaxes(0, 1) if layout == TOKENS_FIRST else rows)


@dataclass(frozen=True)
class Laid:
    """A case and how its operands lie.

    Attributes:
        case: The case.
        layouts: Of Q, K, V and the result.
        offsets: Columns before the heads of Q, K and V; whole heads where these come first.
        four: Whether rows without such columns are ``[batch, tokens, heads, features]``.
        fixed: Whether index and mask are constants.
        hides: Whether scores hide keys.
        backwards: Whether tasks run in descending order.
    """

    case: Case
    layouts: tuple[int, int, int, int]
    offsets: tuple[int, int, int]
    four: bool
    fixed: tuple[bool, bool]
    hides: bool
    backwards: bool = False

    def step(self) -> Step:
        feeds = self.case.feeds()
        tokens = [
            laid_out(feeds[name], self.layouts[at], self.offsets[at], four=self.four)
            for at, name in enumerate("QKV")
        ]
        where = {True: CONSTANT, False: INPUT}
        settings = Attention(
            heads=feeds["Q"].shape[1],
            groups=feeds["K"].shape[1],
            dim=feeds["Q"].shape[3],
            layouts=self.layouts,
            offsets=self.offsets,
            hides=self.hides,
            blocks=where[self.fixed[0]] if "index" in feeds else NONE,
            mask=where[self.fixed[1]] if "mask" in feeds else NONE,
            **self.case.attributes,
        )
        kept = [(name, fixed) for name, fixed in zip(("index", "mask"), self.fixed, strict=True)]
        given = [feeds[name] for name, fixed in kept if name in feeds and not fixed]
        constants = [feeds[name] for name, fixed in kept if name in feeds and fixed]
        if "grid" in feeds:
            constants.insert(int(self.fixed[0]), feeds["grid"])
        inputs = [Tensor(array, array.shape) for array in (*tokens, *given)]
        attributes = settings.attributes
        return Step("attention", attributes, constants, inputs, self.backwards, kinds=TOKEN_KINDS)

    def heads_of(self, y: Floats) -> Floats:
        """The result of the step as the op has it."""
        batch, heads, queries, dim = self.case.arrays["Q"].shape
        layout = self.layouts[3]
        if layout == HEADS_FIRST:
            assert y.shape == (batch, heads, queries, dim)
            return y
        rows = y.swapaxes(0, 1) if layout == TOKENS_FIRST else y
        assert rows.shape == (batch, queries, heads * dim)
        return rows.reshape(batch, queries, heads, dim).transpose(0, 2, 1, 3)


@st.composite
def dense(draw: st.DrawFn, tokens: st.SearchStrategy[int], dims: st.SearchStrategy[int]) -> Case:
    """Without blocks, rule and shared heads; a mask has no row that hides every key."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    batch, heads, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(dims)
    queries, keys = draw(tokens), draw(tokens)
    sizes = {"Q": queries, "K": keys, "V": keys}
    arrays = {name: rng.standard_normal((batch, heads, n, dim)) for name, n in sizes.items()}
    if draw(st.booleans()):
        arrays["mask"] = draw(masks(rng, (batch, heads, queries, keys)))
        arrays["mask"][..., -1] = 0.5
    scale = draw(st.sampled_from([0.1, 1.0, 3.0])) / dim**0.5
    rule = Attention(1, 1, 1, 1.0)
    return Case(
        arrays,
        {"scale": float(np.float32(scale)), "left": rule.left, "right": rule.right, "sinks": 0},
    )


@st.composite
def laid(
    draw: st.DrawFn,
    of: st.SearchStrategy[Case],
    layouts: st.SearchStrategy[int] = LAYOUTS,
    *,
    hides: bool = True,
    three: bool = False,
) -> Laid:
    """Cases in every layout; with `three`, rows have three dimensions."""
    chosen = draw(st.tuples(layouts, layouts, layouts, layouts))
    beside = draw(st.tuples(*[st.sampled_from([0, 0, 3])] * 3))
    fixed = draw(st.tuples(st.booleans(), st.booleans()))
    four = not three and draw(st.booleans())
    case = draw(of)
    dim = case.arrays["Q"].shape[-1]
    offsets = tuple(
        n * dim if at == HEADS_FIRST else n for at, n in zip(chosen, beside, strict=False)
    )
    return Laid(case, chosen, offsets, four, fixed, hides, draw(st.booleans()))


def sparse() -> st.SearchStrategy[Laid]:
    return laid(cases(TOKENS, DIMS))
