"""What a plan says of attentions: the blocks of scores that heads keep, found before or online."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal, Self

import pydantic

from sparsecc.errors import PlanError
from sparsecc.search.fields import Count, Number, Share, Strict, Text, Unit

SPARSITY = 0.8
"""Share of blocks that AdaSpa leaves out."""
STARTS = ((1, 5), (3, 5))
"""When AdaSpa searches, as shares of a sampling: at steps 10 and 30 of 50. Steps before the first
keep every block."""

_SPEC = re.compile(r"(\d{1,9})(?::(\d{1,3}(?:\.\d{1,9})?%|\d?\.?\d{1,9}))?", re.ASCII)


class PlanHead(Strict):
    """What one head of an attention keeps of its blocks of scores.

    Attributes:
        mode: The kind of pattern (``passes/attention/modes.py``).
        setting: Half the width of a band in blocks, or how many stripes; 0 where there is none.
        keys: The blocks of keys that stripes are, in ascending order.
        density: Share of blocks that are kept.
        loss: What it loses, with what it takes (``passes/attention/search.py``).
        recall: Share of its softmax that these blocks hold, on the samples they were chosen on.
        held_out_recall: The same on held-out samples.
    """

    mode: Literal["full", "skip", "diagonal", "multi-diagonal", "vertical"]
    setting: Unit = 0
    keys: Annotated[tuple[Unit, ...], pydantic.Field(max_length=1 << 20)] = ()
    density: Share
    loss: Annotated[Number, pydantic.Field(ge=0)] | None = None
    recall: Share | None = None
    held_out_recall: Share | None = None

    @property
    def fall(self) -> float:
        """How much less of its softmax the blocks hold on held-out samples; 0 if not measured."""
        if self.recall is None or self.held_out_recall is None:
            return 0.0
        return self.recall - self.held_out_recall


class PlanOnline(Strict):
    """When blocks are searched while a model runs, and how many stay.

    Source: Xia et al., Training-free and Adaptive Sparse Attention for Efficient Long Video
    Generation (arXiv 2502.21079).

    Attributes:
        steps: Calls of one sampling; they are numbered from 0.
        full: Calls below this number keep every block.
        searches: Calls that search, in ascending order; those between use what was found.
        sparsity: Share of blocks that is left out, the mean over heads.
    """

    steps: Count
    full: Unit
    searches: Annotated[tuple[Unit, ...], pydantic.Field(min_length=1, max_length=1 << 16)]
    sparsity: Annotated[Number, pydantic.Field(ge=0, lt=1)]

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        ascending = all(one < other for one, other in itertools.pairwise(self.searches))
        if not ascending or self.searches[-1] >= self.steps or self.full > self.searches[0]:
            raise ValueError(
                f"searches {list(self.searches)} must ascend within {self.steps} steps, none of "
                f"them before the {self.full} full ones are over"
            )
        return self

    @classmethod
    def parse(cls, spec: str) -> PlanOnline:
        """Read the steps of a sampling with the sparsity, if not 80 %: ``20``, ``20:0.7``.

        Raises:
            PlanError: It is neither, there is no sparsity like that, or there are too few steps.
        """
        found = _SPEC.fullmatch(spec)
        if found is None:
            raise PlanError(
                f"no online search: {spec!r}",
                fix="write how many steps a sampling has, and the share of blocks that is left "
                "out if it is not 80 %: 20 or 20:0.7",
            )
        steps, share = int(found[1]), found[2]
        sparsity = SPARSITY if share is None else _share(share)
        if not 0 <= sparsity < 1:
            raise PlanError(
                f"an online search cannot leave out {share} of the blocks",
                fix="give a share from 0 to less than 1, such as 0.8",
            )
        searches = tuple(steps * part // whole for part, whole in STARTS)
        if searches[0] == searches[-1]:
            raise PlanError(
                f"an online search has {len(searches)} searches, a sampling of {steps} steps has "
                "no room for them",
                fix="give a sampling of at least 2 steps, or search for blocks before it runs: "
                "leave out online",
            )
        return cls(steps=steps, full=searches[0], searches=searches, sparsity=sparsity)

    def __str__(self) -> str:
        searches = " and ".join(map(str, self.searches))
        return f"searched at steps {searches} of {self.steps}, {self.sparsity:.0%} of them left out"


def _share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


class PlanAttention(Strict):
    """An attention whose heads keep blocks of their scores.

    Attributes:
        name: Of its last node.
        grid: What its tokens are, such as ``8+16x24x24``: words, frames, height and width.
        block: Tokens of a block, of queries and of keys.
        heads: In order. Of an attention that is searched online: what was chosen before, which
            does not count; full where nothing was.
        online: How its blocks are found while the model runs; None: they are as ``heads`` says.
        time_weight: The error that all of a head's time is worth: λ of Sparse-vDiT.
        most_loss: The loss up to which a head does not stay full: its ε.
        predicted_ms: Estimated time of its scores, in milliseconds; online the mean over steps.
        dense_ms: The same of all of them.
        samples: What each sample alone would have chosen, in order, a letter for each head: full,
            skip, diagonal, multi-diagonal or vertical.
        reason: Why all heads are full, or "".
    """

    name: Text
    grid: Text
    block: Count
    heads: Annotated[tuple[PlanHead, ...], pydantic.Field(min_length=1, max_length=1 << 16)]
    online: PlanOnline | None = None
    time_weight: Annotated[Number, pydantic.Field(ge=0)]
    most_loss: Annotated[Number, pydantic.Field(ge=0)]
    predicted_ms: Annotated[Number, pydantic.Field(ge=0)]
    dense_ms: Annotated[Number, pydantic.Field(ge=0)]
    samples: tuple[Text, ...] = ()
    reason: Text = ""

    @property
    def is_dense(self) -> bool:
        """Whether every head keeps all of its blocks, at every step."""
        return self.online is None and all(head.mode == "full" for head in self.heads)

    @property
    def worst(self) -> int:
        """The head whose blocks hold least of its softmax on held-out samples, beside the others.

        One head decides: its error is not made good by heads that stay as they are.
        """
        return max(range(len(self.heads)), key=lambda at: self.heads[at].fall)


__all__ = ["PlanAttention", "PlanHead", "PlanOnline"]
