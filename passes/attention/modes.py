"""Which blocks of scores a head of a video transformer keeps: the modes of Sparse-vDiT.

Tokens are a grid of frames, rows and columns, frame by frame and row by row, with words before or
behind. A mode says which pairs of a block of queries and a block of keys are computed; blocks that
hold a word are always kept, as rows and as columns.

Source: Chen et al., Sparse-vDiT (arXiv 2506.03065), section 3; widths of bands as in the code of
Sparse VideoGen (arXiv 2502.01776), which it follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import PlanError

Mode = Literal["full", "skip", "diagonal", "multi-diagonal", "vertical"]
Kept = NDArray[np.bool_]

AUTO = "auto"
"""In the place of a grid: the one that so many tokens fit."""
BAND_FRAMES = 1.5
"""Half the width of a band, in frames, where no density is asked for."""

_SPEC = re.compile(r"(?:(\d{1,9})\+)?(\d{1,9})x(\d{1,9})x(\d{1,9})(?:\+(\d{1,9}))?", re.ASCII)
_MOST_NAMED = 4
"""Grids that an error names."""


@dataclass(frozen=True)
class Grid:
    """What the tokens of a video transformer stand for.

    Attributes:
        frames: Of the video, as tokens see it.
        height: Tokens down a frame.
        width: Tokens across.
        text: Tokens that are words.
        text_first: Whether they stand before the video's, else behind.
    """

    frames: int
    height: int
    width: int
    text: int = 0
    text_first: bool = True

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1 or self.text < 0:
            raise PlanError(
                f"no grid of tokens: {self}",
                fix="give at least one frame, row and column, and no fewer than 0 words",
            )

    def __str__(self) -> str:
        words = f" and {self.text} words" if self.text else ""
        return f"{self.frames} × {self.height} × {self.width}{words}"

    @property
    def spec(self) -> str:
        """As requests and plans write it, such as ``8+16x24x24``."""
        video = f"{self.frames}x{self.height}x{self.width}"
        parts = [str(self.text)] * bool(self.text)
        return "+".join([*parts, video] if self.text_first else [video, *parts])

    @classmethod
    def parse(cls, spec: str) -> Grid:
        """Read ``16x24x24``, with words before as ``8+16x24x24`` or behind as ``16x24x24+8``.

        Raises:
            PlanError: It is none of these.
        """
        found = _SPEC.fullmatch(spec)
        if found is None:
            raise PlanError(
                f"no grid of tokens: {spec!r}",
                fix="write frames x height x width as tokens see them, and words before or "
                "behind: 16x24x24, 8+16x24x24 or 16x24x24+8",
            )
        before, frames, height, width, behind = (int(part or 0) for part in found.groups())
        if before and behind:
            raise PlanError(
                f"no grid of tokens: {spec!r} has words on both sides", fix="put them on one side"
            )
        return cls(frames, height, width, before or behind, text_first=not behind)

    @property
    def frame(self) -> int:
        """Tokens of a frame."""
        return self.height * self.width

    @property
    def video(self) -> slice:
        """Where the tokens of the video are."""
        start = self.text if self.text_first else 0
        return slice(start, start + self.frames * self.frame)

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.text + self.frames * self.frame

    def check(self, tokens: int, node: str | None = None) -> None:
        """Raise a PlanError unless these are the tokens of an attention."""
        if self.tokens != tokens:
            raise PlanError(
                f"a grid of {self} is {self.tokens} tokens, the attention has {tokens}",
                node=node,
                fix="give the grid as tokens see it (after patches are cut), and the words",
            )


def grid_of(
    tokens: int,
    *,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    text: int = 0,
    text_first: bool = True,
) -> Grid:
    """The one grid of more than one frame, row and column that has so many tokens.

    Args:
        tokens: All of an attention.
        frames: If known.
        height: If known, tokens down.
        width: If known, tokens across.
        text: Tokens that are words.
        text_first: Where they stand.

    Raises:
        PlanError: No grid has so many tokens, or more than one has.
    """
    asked = (frames, height, width)
    if text < 0 or any(size is not None and size < 1 for size in asked):
        raise PlanError(
            f"no grid of tokens: {asked} and {text} words", fix="give numbers from 1 on"
        )
    sizes = list(_sizes(tokens - text, asked))
    if len(sizes) == 1:
        return Grid(*sizes[0], text, text_first)
    known = " × ".join("?" if size is None else str(size) for size in asked)
    words = f" beside {text} words" if text else ""
    if not sizes:
        raise PlanError(
            f"{tokens} tokens{words} are no grid of {known} (frames × height × width)",
            fix="give the sizes as tokens see them (after patches are cut), and the words",
        )
    named = ", ".join(" × ".join(map(str, size)) for size in sizes[:_MOST_NAMED])
    more = f" and {len(sizes) - _MOST_NAMED} more" if len(sizes) > _MOST_NAMED else ""
    raise PlanError(
        f"{tokens} tokens{words} are more than one grid of {known}: {named}{more}",
        fix="give frames, height and width",
    )


def _sizes(
    video: int, asked: tuple[int | None, int | None, int | None]
) -> Iterator[tuple[int, int, int]]:
    """Frames, height and width, those not asked for at least 2, whose product is `video`."""
    divisors = _divisors(video)
    choices = [divisors[1:] if size is None else [size] for size in asked[:2]]
    for frames in choices[0]:
        for height in choices[1]:
            width, rest = divmod(video, frames * height)
            if rest == 0 and (width == asked[2] if asked[2] is not None else width > 1):
                yield frames, height, width


def _divisors(number: int) -> list[int]:
    """Of a number from 1 on, in ascending order; none of others."""
    low = [d for d in range(1, math.isqrt(max(0, number)) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


@dataclass(frozen=True)
class Pattern:
    """The blocks of scores that a head keeps.

    Attributes:
        mode: What kind.
        block: Tokens of a block, of queries and of keys; the last may be cut.
        kept: [query blocks, key blocks].
        order: The order of tokens that blocks are of: place i is token ``order[i]``. None: as
            they stand. Queries, keys and values are brought into it, and results back.
    """

    mode: Mode
    block: int
    kept: Kept
    order: NDArray[np.int64] | None = None

    @property
    def density(self) -> float:
        """Share of blocks that are kept: one less the paper's sparsity S."""
        return float(self.kept.mean())

    def in_place(self) -> Pattern:
        """All blocks in the order as tokens stand that hold a pair which this keeps.

        They hold other pairs too, so that this computes more than the pattern it comes from.
        """
        if self.order is None:
            return self
        places = np.arange(len(self.order))
        moved = np.zeros_like(self.kept, np.float32)
        moved[self.order // self.block, places // self.block] = 1
        return Pattern(self.mode, self.block, moved @ self.kept @ moved.T > 0)


def full(grid: Grid, block: int) -> Pattern:
    """Every block."""
    return Pattern("full", block, np.ones(_blocks(grid, block), bool))


def skip(grid: Grid, block: int) -> Pattern:
    """None: the head's output is zero, of words too."""
    return Pattern("skip", block, np.zeros(_blocks(grid, block), bool))


def diagonal(grid: Grid, block: int, band: int) -> Pattern:
    """Tokens near in the order frame, row, column: blocks i, j with ``|i - j| < band``."""
    return Pattern("diagonal", block, _banded(grid, block, band))


def multi_diagonal(grid: Grid, block: int, band: int) -> Pattern:
    """Tokens near within a frame, at any time: the same band, with place before time.

    Token p of frame f, of F tokens a frame and T frames, moves from f·F + p to p·T + f.
    """
    places = np.arange(grid.tokens)
    video = places[grid.video].reshape(grid.frames, grid.frame)
    order = places.copy()
    order[grid.video] = video.T.ravel()
    return Pattern("multi-diagonal", block, _banded(grid, block, band), order)


def vertical(grid: Grid, block: int, keys: Sequence[int]) -> Pattern:
    """Keys that all queries look at: these blocks of keys, and those that hold words."""
    kept = np.zeros(_blocks(grid, block), bool)
    kept[:, list(keys)] = True
    return Pattern("vertical", block, kept | _text_pairs(grid, block))


def heaviest(grid: Grid, block: int, stripes: int, mass: NDArray[np.floating]) -> tuple[int, ...]:
    """The blocks of keys of the largest mass, in ascending order.

    Args:
        grid: Of the tokens.
        block: Tokens of a block.
        stripes: How many blocks of keys, beside those that hold words.
        mass: What every key gets of the softmax, summed over queries of calibration [tokens].

    Raises:
        PlanError: The mass is not of these tokens, or is negative or no number.
    """
    if mass.shape != (grid.tokens,) or not np.all(np.isfinite(mass)) or mass.min() < 0:
        raise PlanError(
            f"the mass of keys has the shape {mass.shape}, for {grid.tokens} tokens of {grid}, "
            "or is negative or not finite",
            fix="sum the softmax of the same attention over its queries",
        )
    of_blocks = np.add.reduceat(mass.astype(np.float64), np.arange(0, grid.tokens, block))
    of_blocks[_with_text(grid, block)] = -1
    without_words = int(np.count_nonzero(of_blocks >= 0))
    chosen = np.argsort(-of_blocks, kind="stable")[: min(max(0, stripes), without_words)]
    return tuple(sorted(chosen.tolist()))


def band_of(grid: Grid, block: int, density: float | None = None) -> int:
    """Half the width of a band in blocks, at least one.

    Args:
        grid: Of the tokens.
        block: Tokens of a block.
        density: Of all pairs, those of words included. A band of half-width w keeps
            1 - (1 - w/N)² of N² pairs, the words 2c/N. By default :data:`BAND_FRAMES` frames.

    Raises:
        PlanError: The density is not within 0 to 1.
    """
    if density is None:
        return max(1, math.floor(BAND_FRAMES * grid.frame / block))
    _check_density(density)
    of_band = max(0.0, density - 2 * grid.text / grid.tokens)
    return max(1, math.floor(grid.tokens * (1 - math.sqrt(1 - of_band)) / block))


def stripes_of(grid: Grid, block: int, density: float) -> int:
    """The most blocks of keys that keep a vertical pattern within a density, at least one.

    Raises:
        PlanError: The density is not within 0 to 1.
    """
    _check_density(density)
    rows, columns = _blocks(grid, block)
    text = int(_with_text(grid, block).sum())
    if text == rows:
        return 0
    per_row = (density * rows * columns - text * columns) / (rows - text)
    # a sum in binary may fall a hair short of the whole number that it stands for
    return min(columns - text, max(1, math.floor(per_row - text + 1e-9)))


def _check_density(density: float) -> None:
    if not 0 <= density <= 1:
        raise PlanError(f"no density of blocks: {density}", fix="give a share from 0 to 1")


def _blocks(grid: Grid, block: int) -> tuple[int, int]:
    if block < 1:
        raise PlanError(f"no block of {block} tokens", fix="give at least 1; kernels take 64")
    return (math.ceil(grid.tokens / block),) * 2


def _banded(grid: Grid, block: int, band: int) -> Kept:
    if band < 1:
        raise PlanError(f"a band of {band} blocks keeps nothing", fix="give at least 1 block")
    rows, columns = (np.arange(blocks) for blocks in _blocks(grid, block))
    near: Kept = np.abs(rows[:, None] - columns) < band
    return np.logical_or(near, _text_pairs(grid, block))


def _with_text(grid: Grid, block: int) -> Kept:
    """Which blocks hold a word."""
    text = np.ones(grid.tokens, bool)
    text[grid.video] = False
    blocks: Kept = np.logical_or.reduceat(text, np.arange(0, grid.tokens, block))
    return blocks


def _text_pairs(grid: Grid, block: int) -> Kept:
    text = _with_text(grid, block)
    pairs: Kept = np.logical_or.outer(text, text)
    return pairs
