"""Second moments of layer inputs: products of a batch in its own precision, sums in float64."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from sparsecc.padding import same_padding

Matrix = NDArray[np.float64]

ROWS_PER_INPUT = 4
"""Rows per column of H that make a refit trustworthy."""
FLOP_BUDGET = 5e10
"""Multiply-adds one layer's H may cost before rows are sampled."""
PLENTY_PER_INPUT, PLENTY = 64, 1 << 14
"""Rows per column of H, and rows at least, beyond which more make no better masks."""
_ROUNDING = 1e-6
"""Share of H that products in float32 leave where there should be none."""


@dataclasses.dataclass(frozen=True)
class Window:
    """How a 2-D convolution reads its input ``[N, C, H, W]``."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int
    auto_pad: str

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, int]) -> Window:
        """The window of a Conv node."""
        attributes = node.attributes
        top, left, bottom, right = attributes.get_ints("pads", (0, 0, 0, 0))
        stride_y, stride_x = attributes.get_ints("strides", (1, 1))
        dilation_y, dilation_x = attributes.get_ints("dilations", (1, 1))
        return cls(
            kernel=kernel,
            strides=(stride_y, stride_x),
            pads=(top, left, bottom, right),
            dilations=(dilation_y, dilation_x),
            groups=attributes.get_int("group", 1),
            auto_pad=attributes.get_string("auto_pad", "NOTSET"),
        )


@dataclasses.dataclass(frozen=True)
class Goal:
    """Statistics of what a layer's inputs are in the dense model: its z for each x.

    Attributes:
        cross: ``[groups, K, K]``, mean of z xᵀ.
        second: ``[groups, K, K]``, mean of z zᵀ.
        mean: ``[groups, K]``, mean of z.
    """

    cross: Matrix
    second: Matrix
    mean: Matrix


def _diagonals(matrices: Matrix) -> Matrix:
    found: Matrix = np.einsum("gii->gi", matrices)
    return found


@dataclasses.dataclass(frozen=True)
class Moments:
    """Statistics of one layer's inputs.

    Attributes:
        h: ``[groups, K, K]``, mean of x xᵀ.
        mean: ``[groups, K]``, mean of x.
        rows: How many x went in.
        goal: The same inputs in the dense model; None where they are these.
    """

    h: Matrix
    mean: Matrix
    rows: int
    goal: Goal | None = None

    @property
    def centred(self) -> Matrix:
        """``[groups, K, K]``, the covariance: H for a layer whose bias may move.

        Inputs that vary by no more than H is rounded are constant: a rest of either sign would
        make it indefinite. Where none varies, as over a single row, a covariance tells nothing
        of what weights are worth, and it is H itself.
        """
        found: Matrix = self.h - self.mean[:, :, None] * self.mean[:, None, :]
        varies = _diagonals(found) > _ROUNDING * _diagonals(self.h)
        found = np.where(varies[:, :, None] & varies[:, None], found, 0.0)
        some = np.asarray(varies.any(1))
        chosen: Matrix = np.where(some[:, None, None], found, self.h)
        return chosen

    @property
    def wanted(self) -> Goal:
        """The goal, which these inputs are themselves where there is no other."""
        return self.goal or Goal(self.h, self.h, self.mean)


class MomentSum:
    """Adds up :class:`Moments` over batches, sampling rows beyond a bounded effort.

    Args:
        name: Seeds the sampling, with the number of the batch.
        window: How a convolution reads the batch; None for matrix products.
        batches: Batches that will come, to share the rows out among them.
    """

    def __init__(self, name: str, window: Window | None, batches: int) -> None:
        self._seed = zlib.crc32(name.encode())
        self._window = window
        self._batches = batches
        self._seen = 0
        self._rows = 0
        self._sums: dict[str, Matrix] = {}

    def add(self, batch: NDArray[np.floating], dense: NDArray[np.floating] | None = None) -> None:
        """Take in one batch: ``[N, C, H, W]`` with a window, else ``[..., K]``.

        Args:
            batch: What the layer reads.
            dense: What it reads in the dense model, where that is something else.
        """
        rows = self._sample(batch)
        self._rows += rows.shape[1]
        self._add("h", [x.T @ x for x in rows])
        self._add("mean", rows.sum(axis=1, dtype=np.float64))
        if dense is not None:
            wanted = self._sample(dense)  # the same rows
            self._add("cross", [z.T @ x for z, x in zip(wanted, rows, strict=True)])
            self._add("second", [z.T @ z for z in wanted])
            self._add("goal", wanted.sum(axis=1, dtype=np.float64))
        self._seen += 1

    def finish(self) -> Moments | None:
        """The moments, or None when no row came."""
        if self._rows == 0:
            return None
        means = {name: total / self._rows for name, total in self._sums.items()}
        goal = None
        if "goal" in means:
            goal = Goal(means["cross"], means["second"], means["goal"])
        return Moments(means["h"], means["mean"], self._rows, goal)

    def _add(self, name: str, terms: ArrayLike) -> None:
        total = np.asarray(terms, np.float64)
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def _sample(self, batch: NDArray[np.floating]) -> NDArray[np.floating]:
        rng = np.random.default_rng((self._seed, self._seen))
        if self._window is None:
            rows = batch.reshape(-1, batch.shape[-1])
            limit = self._limit(rows.shape[1])
            if len(rows) > limit:
                rows = rows[np.sort(rng.choice(len(rows), limit, replace=False))]
            return rows[None]
        cols = int(np.prod(self._window.kernel)) * batch.shape[1] // self._window.groups
        return patches(batch, self._window, self._limit(cols), rng)

    def _limit(self, cols: int) -> int:
        affordable = max(ROWS_PER_INPUT * cols, FLOP_BUDGET / cols**2)
        total = min(affordable, max(PLENTY_PER_INPUT * cols, PLENTY))
        return max(1, -(-int(total) // self._batches))


def patches(
    x: NDArray[np.floating], window: Window, limit: int, rng: np.random.Generator
) -> NDArray[np.floating]:
    """What a convolution multiplies at its output positions.

    Args:
        x: ``[N, C, H, W]``.
        window: The convolution.
        limit: Take at most this many positions, drawn by ``rng`` without replacement.
        rng: Draws the positions.

    Returns:
        ``[groups, positions, kh * kw * C / groups]``, columns in the order (kh, kw, channel).
    """
    top, left, bottom, right = _padding(window, x.shape[2], x.shape[3])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spans = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    view = sliding_window_view(padded, spans, axis=(2, 3))
    view = view[:, :, :: window.strides[0], :: window.strides[1]]
    view = view[..., :: window.dilations[0], :: window.dilations[1]]
    count, channels, height, width = view.shape[:4]
    positions = np.arange(count * height * width)
    if len(positions) > limit:
        positions = np.sort(rng.choice(len(positions), limit, replace=False))
    sample, rest = np.divmod(positions, height * width)
    row, column = np.divmod(rest, width)
    taken = view[sample, :, row, column]
    groups = window.groups
    taken = taken.reshape(len(positions), groups, channels // groups, *window.kernel)
    return taken.transpose(1, 0, 3, 4, 2).reshape(groups, len(positions), -1)


def _padding(window: Window, height: int, width: int) -> tuple[int, int, int, int]:
    """Padding (top, left, bottom, right) for an input of this size."""
    if window.auto_pad in ("NOTSET", ""):
        return window.pads
    if window.auto_pad == "VALID":
        return (0, 0, 0, 0)
    (top, bottom), (left, right) = (
        same_padding(size, (kernel - 1) * dilation + 1, stride, window.auto_pad)
        for size, kernel, stride, dilation in zip(
            (height, width), window.kernel, window.strides, window.dilations, strict=True
        )
    )
    return (top, left, bottom, right)
