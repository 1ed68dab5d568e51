"""Zero patterns of a weight ``W[R, K]``: how they are written, ranked into masks and recognised.

A pattern says which zeros belong together, a :class:`SparsitySpec` adds how many there are:

==================  =============================================================
``unstructured``    single weights
``4x1`` (N×1)       N consecutive output rows share a zero at one input
``1x4`` (1×G)       G consecutive inputs of one output row share a zero
``4x4``             4 outputs share the zeros of 4 consecutive inputs (for int8 kernels)
``2:4`` (N:M)       N weights kept in every M consecutive inputs of a row
``dense``           no zeros
==================  =============================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import PlanError

Kind = Literal["dense", "unstructured", "block", "nm"]
Whole = Literal["channels", "heads"]
"""What is taken out of the model whole."""
Mask = NDArray[np.bool_]
"""``[R, K]``, True where the weight is kept."""

BLOCK_SIDES = (2, 4, 8, 16, 32, 64)
SQUARE = (4, 4)
"""The block that int8 kernels meet in one lane: four outputs by four inputs."""
LARGEST_GROUP = 64
HALVES = 2, 4
"""Kept of consecutive inputs: the N:M that GPUs have matrix units for."""
ACCEPTED = (
    "PATTERN:SPARSITY with PATTERN one of unstructured, Nx1 or 1xG (N and G one of "
    f"{', '.join(map(str, BLOCK_SIDES))}), or 4x4, and SPARSITY a fraction such as 0.8 "
    "or a percentage such as 80%; N:M such as 2:4 (2 kept of 4); a bare fraction such as 0.8 "
    "(unstructured); 'existing' (the zeros already in the model); 'dense'; channels:0.3 or "
    "heads:0.25 (removed from the whole model)"
)

_WHOLE: dict[str, Whole] = {"channels": "channels", "heads": "heads"}
_DENSE_ABOVE = 0.95
_FILL_AT_LEAST = 0.98
_DETECTED_SIDES = (16, 8, 4, 2)
_DETECTED_NM = ((1, 2), (1, 4), (2, 4), (1, 8), (2, 8), (4, 8))
_NM_TIGHTNESS = 0.9


@dataclass(frozen=True)
class Pattern:
    """Which zeros belong together.

    Attributes:
        kind: Family of the pattern.
        block: Rows and columns that share a zero; (1, 1) unless ``kind`` is ``"block"``.
        keep: Of ``group`` consecutive inputs, how many are kept (N:M only, else 0).
        group: The M of N:M (else 0).
    """

    kind: Kind
    block: tuple[int, int] = (1, 1)
    keep: int = 0
    group: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``unstructured``, ``dense``, ``4x1``, ``1x4`` or ``2:4``.

        Raises:
            PlanError: The text is none of these, or names a block no format holds.
        """
        word = text.strip().lower()
        if word == "unstructured":
            return UNSTRUCTURED
        if word == "dense":
            return DENSE
        if match := re.fullmatch(r"(\d{1,3})[x×](\d{1,3})", word):
            rows, cols = int(match[1]), int(match[2])
            lean = min(rows, cols) == 1 and max(rows, cols) in BLOCK_SIDES
            if lean or (rows, cols) == SQUARE:
                return cls("block", (rows, cols))
        if match := re.fullmatch(r"(\d{1,3}):(\d{1,3})", word):
            keep, group = int(match[1]), int(match[2])
            if 0 < keep < group <= LARGEST_GROUP:
                return cls("nm", keep=keep, group=group)
        raise PlanError(f"{text!r} is not a sparsity pattern", fix=f"write {ACCEPTED}")

    def __str__(self) -> str:
        if self.kind == "block":
            return f"{self.block[0]}x{self.block[1]}"
        return f"{self.keep}:{self.group}" if self.kind == "nm" else self.kind


DENSE = Pattern("dense")
UNSTRUCTURED = Pattern("unstructured")


@dataclass(frozen=True)
class SparsitySpec:
    """A request: a pattern and the share of it that becomes zero.

    Attributes:
        pattern: The pattern, or None to use whatever zeros the model already has.
        sparsity: Zeros over all weights, 0 ≤ sparsity < 1 (0 when ``pattern`` is None), or the
            share of channels or heads that goes.
        removes: Whether channels or heads are removed instead; the zeros that are there stay.
    """

    pattern: Pattern | None
    sparsity: float
    removes: Whole | Literal[""] = ""

    @classmethod
    def parse(cls, text: str) -> SparsitySpec:
        """Read a request such as ``4x1:0.8``, ``2:4``, ``0.5``, ``channels:0.3`` or ``existing``.

        Raises:
            PlanError: The text cannot be read or asks for the impossible.
        """
        word = text.strip().lower()
        if word == "existing":
            return cls(None, 0.0)
        if re.fullmatch(r"\d+:\d+", word):
            pattern = Pattern.parse(word)
            return cls(pattern, 1 - pattern.keep / pattern.group)
        name, colon, amount = word.rpartition(":")
        if not colon:
            if word == "dense":
                return cls(DENSE, 0.0)
            name, amount = "unstructured", word
        sparsity = _fraction(amount, text)
        if removes := _WHOLE.get(name):
            return cls(None, sparsity, removes)
        pattern = Pattern.parse(name)
        if pattern.kind in ("dense", "nm"):
            raise PlanError(
                f"{text!r}: the pattern {pattern} fixes the sparsity by itself",
                fix=f"write {str(pattern)!r} alone",
            )
        return cls(pattern, sparsity)

    def __str__(self) -> str:
        if self.removes:
            return f"{self.removes}:{self.sparsity:g}"
        if self.pattern is None:
            return "existing"
        if self.pattern.kind in ("dense", "nm"):
            return str(self.pattern)
        return f"{self.pattern}:{self.sparsity:g}"


def _fraction(amount: str, text: str) -> float:
    match = re.fullmatch(r"(\d*\.?\d+)\s*(%?)", amount.strip())
    if not match:
        raise PlanError(f"{text!r} is not a sparsity request", fix=f"write {ACCEPTED}")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value < 1:
        raise PlanError(
            f"{text!r} asks for a sparsity of {value:g}, outside 0 ≤ sparsity < 1",
            fix="write a fraction such as 0.8, or a percentage with its sign such as 80%",
        )
    return value


def block_sums(values: NDArray[Any], block: tuple[int, int]) -> NDArray[np.float64]:
    """Sum ``values[R, K]`` over r×c blocks to ``[ceil(R/r), ceil(K/c)]``; edge blocks are cut."""
    summed = np.asarray(values, np.float64)
    for axis, side in enumerate(block):
        if side > 1:
            summed = np.add.reduceat(summed, np.arange(0, summed.shape[axis], side), axis=axis)
    return summed


def expand_blocks(kept: NDArray[np.bool_], block: tuple[int, int], shape: tuple[int, int]) -> Mask:
    """Blow a block mask ``[Rb, Kb]`` up to the element mask ``[R, K]``."""
    return kept.repeat(block[0], axis=0).repeat(block[1], axis=1)[: shape[0], : shape[1]]


def keep_highest(scores: NDArray[np.floating], drop: int) -> Mask:
    """Mask of ``scores``' shape that drops exactly the ``drop`` lowest; ties fall to the left."""
    flat = scores.reshape(-1)
    if not 0 < drop < flat.size:
        return np.full(scores.shape, drop <= 0)
    last = np.partition(flat, drop - 1)[drop - 1]
    mask: Mask = flat > last
    ties = np.flatnonzero(flat == last)
    mask[ties[drop - (flat.size - np.count_nonzero(mask) - len(ties)) :]] = True
    return mask.reshape(scores.shape)


def keep_n_of_m(scores: NDArray[np.floating], keep: int, group: int) -> Mask:
    """Keep the ``keep`` highest of every ``group`` columns of ``scores[R, K]``.

    A last group of fewer than ``group`` columns keeps ``keep`` of them too (or all).
    """
    rows, cols = scores.shape
    padded = np.full((rows, -(-cols // group) * group), -np.inf)
    padded[:, :cols] = scores
    grouped = padded.reshape(rows, -1, group)
    order = np.argsort(-grouped, axis=2, kind="stable")
    mask = np.zeros(grouped.shape, bool)
    np.put_along_axis(mask, order[:, :, :keep], True, axis=2)
    return mask.reshape(rows, -1)[:, :cols]


def mask_from_scores(
    scores: NDArray[np.floating], pattern: Pattern, sparsity: float, *, per_row: bool = False
) -> Mask:
    """Keep what scores highest, in the units of ``pattern``.

    Args:
        scores: ``[R, K]`` importance of single weights; a block's is the sum over the block.
        pattern: What is dropped together.
        sparsity: Share of the blocks to drop, rounded to whole blocks (ignored by N:M and dense).
        per_row: Rank inside each row (of blocks), as Wanda does, not across the matrix.

    Returns:
        The element mask ``[R, K]``.
    """
    shape = (scores.shape[0], scores.shape[1])
    if pattern.kind == "dense":
        return np.ones(shape, bool)
    if pattern.kind == "nm":
        return keep_n_of_m(scores, pattern.keep, pattern.group)
    blocks = block_sums(scores, pattern.block)
    if per_row:
        drop = round(sparsity * blocks.shape[1])
        kept = np.stack([keep_highest(row, drop) for row in blocks])
    else:
        kept = keep_highest(blocks, round(sparsity * blocks.size))
    return expand_blocks(kept, pattern.block, shape)


def _occupied(nonzero: NDArray[np.bool_], block: tuple[int, int]) -> NDArray[np.bool_]:
    """Which r×c blocks hold a non-zero."""
    axis, side = (0, block[0]) if block[0] > 1 else (1, block[1])
    starts = np.arange(0, nonzero.shape[axis], side)
    held: NDArray[np.bool_] = np.logical_or.reduceat(nonzero, starts, axis=axis)
    return held


def _extents(length: int, side: int) -> NDArray[np.int64]:
    """Lengths of the pieces of ``side`` that ``length`` is cut into; the last may be shorter."""
    return np.minimum(side, length - np.arange(0, length, side))


@dataclass(frozen=True)
class Detected:
    """The zeros found in a matrix.

    Attributes:
        pattern: The largest pattern that explains them.
        density: Non-zeros over all weights.
        block_density: Blocks of ``pattern`` holding a non-zero over all blocks.
    """

    pattern: Pattern
    density: float
    block_density: float


def keeps_within(nonzero: Mask, keep: int, group: int) -> bool:
    """Whether no group of so many consecutive inputs of a row holds more than it may (N:M)."""
    return bool(block_sums(nonzero, (1, group)).max(initial=0) <= keep)


def detect(matrix: NDArray[np.floating]) -> Detected:
    """Recognise the pattern of the zeros already in ``matrix[R, K]`` (contract layout).

    A block shape explains the zeros when at least 98 % of what its occupied blocks hold is
    non-zero; the one with the most elements wins, N×1 before 1×G. N:M needs every group within
    its limit and nearly full. A matrix of at least 95 % non-zeros is dense; whole rows or columns
    of zeros count like any other zeros, and a matrix of zeros only is unstructured.
    """
    nonzero = np.asarray(matrix) != 0
    count = int(np.count_nonzero(nonzero))
    density = count / max(1, nonzero.size)
    if density >= _DENSE_ABOVE:
        return Detected(DENSE, density, 1.0)
    if count == 0:
        return Detected(UNSTRUCTURED, 0.0, 0.0)
    for side in _DETECTED_SIDES:
        for block in ((side, 1), (1, side)):
            occupied = _occupied(nonzero, block)
            heights, widths = map(_extents, nonzero.shape, block)
            if count >= _FILL_AT_LEAST * (heights @ occupied @ widths):
                return Detected(Pattern("block", block), density, float(occupied.mean()))
    for keep, group in _DETECTED_NM:
        in_group = block_sums(nonzero, (1, group))
        live = in_group[in_group.any(axis=1)]
        if live.max() <= keep and live.mean() >= _NM_TIGHTNESS * keep:
            return Detected(Pattern("nm", keep=keep, group=group), density, density)
    return Detected(UNSTRUCTURED, density, density)
