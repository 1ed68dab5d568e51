"""A mixture of experts on a GPU: four launches, whatever the tokens chose.

Sizes are those of the worst choice, so that nothing waits for the device and a CUDA graph holds all
of it. What is read at least are the weights of the experts that were touched, once: few tokens take
as long as that. Many tokens take the time of their products, in whole tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from sparsecc.backends.cuda.kernel import DTYPES, Arch
from sparsecc.backends.cuda.recipe import Given, Recipe, Scratch, Step
from sparsecc.backends.cuda.rows.experts import (
    BINS,
    ROWS,
    combine_name,
    product_name,
    route_name,
)
from sparsecc.backends.cuda.steps import splits_of
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError
from sparsecc.ops.activations import ACTIVATIONS

ALIGNMENT = 16
"""Features and hidden features are multiples: rows are read 16 bytes at a time."""
MEANS: Mapping[int, int] = {16: 24, 64: 96}
"""Tiles of so many pairs are taken up to so many pairs of an expert. Not measured yet."""
_MOST = 2**31
_CODES = {activation.name: code for code, activation in enumerate(ACTIVATIONS)}
_TILES: Mapping[str, Given] = {name: name for name in ("Order", "Tiles", "Count")}


@dataclass(frozen=True)
class Mixture:
    """What ``sparsecc.ops.moe`` says, as far as launches depend on it.

    Tensors are ``X`` and ``Out`` ``[tokens, features]``, ``Experts`` int64 and ``Gates`` float32
    ``[tokens, slots]``, ``Up`` and, if gated, ``Gate`` ``[experts, inner, features]``, ``Down``
    ``[experts, features, inner]`` and, if biased, ``UpBias``, ``GateBias`` and ``DownBias``; all
    contiguous, and of ``dtype`` where not said otherwise. A token with an expert that does not
    exist becomes NaN.

    Attributes:
        tokens: Rows of X.
        slots: Experts of a token.
        experts: How many there are.
        features: Of a token.
        inner: Hidden features of an expert.
        activation: A name of ``ACTIVATIONS``.
        gated: Whether there is a second first product.
        biased: Whether each product has a bias.
        dtype: As torch names it.
        arch: Of the GPU.
    """

    tokens: int
    slots: int
    experts: int
    features: int
    inner: int
    activation: str
    gated: bool
    biased: bool
    dtype: str
    arch: Arch

    @property
    def pairs(self) -> int:
        """Of a token and a slot."""
        return self.tokens * self.slots


def rows_of(pairs: int, experts: int) -> int:
    """Pairs of a tile: by how many an expert has, if they spread evenly."""
    mean = pairs / max(1, min(pairs, experts))
    return next((rows for rows, most in MEANS.items() if mean <= most), ROWS[-1])


def most_tiles(pairs: int, experts: int, rows: int) -> int:
    """Tiles of the worst choice: each expert that is touched has a tile that one pair begins."""
    return (pairs + min(pairs, experts) * (rows - 1)) // rows


@functools.lru_cache(maxsize=1024)
def recipe(mixture: Mixture, rows: int | None = None) -> Recipe:
    """Route, up (with the gate and the activation), down (times the gates), combine.

    Args:
        mixture: What is computed.
        rows: Pairs of a tile, one of ``ROWS``; by default what :func:`rows_of` says.

    Raises:
        BackendError: No kernel takes such a mixture.
        TargetError: There are no kernels for the architecture.
    """
    check(mixture)
    if not mixture.pairs:
        return Recipe(())
    rows = rows or rows_of(mixture.pairs, mixture.experts)
    tiles = most_tiles(mixture.pairs, mixture.experts, rows)
    up = _up(mixture, rows, tiles)
    down, splits = _down(mixture, rows, tiles)
    bins = next(bins for bins in BINS if mixture.experts <= bins)
    route: dict[str, Given] = {
        "Experts": "Experts",
        **_TILES,
        "pairs": mixture.pairs,
        "experts": mixture.experts,
        "rows": rows,
    }
    scratch: dict[str, Scratch] = {
        "Order": ("int32", (mixture.pairs,)),
        "Tiles": ("int32", (tiles, 3)),
        "Count": ("int32", (1,)),
        "Hidden": (mixture.dtype, (mixture.pairs, mixture.inner)),
        "Parts": ("float32", (splits, mixture.pairs, mixture.features)),
    }
    return Recipe(
        (
            Step(KERNELS[route_name(bins)], (mixture.experts,), route),
            up,
            down,
            _combine(mixture, splits),
        ),
        scratch,
    )


def _up(mixture: Mixture, rows: int, tiles: int) -> Step:
    product = "gated" if mixture.gated else "up"
    kernel = KERNELS[product_name(product, mixture.dtype, rows)]
    columns = math.ceil(mixture.inner / kernel.constants_on(mixture.arch)["COLUMNS"])
    return Step(
        kernel,
        (tiles * columns,),
        {
            "X": "X",
            "Up": "Up",
            "Gate": "Gate" if mixture.gated else "Up",
            "UpBias": "UpBias" if mixture.biased else "Up",
            "GateBias": "GateBias" if mixture.gated and mixture.biased else "Up",
            **_TILES,
            "Hidden": "Hidden",
            "slots": mixture.slots,
            "features": mixture.features,
            "inner": mixture.inner,
            "activation": _CODES[mixture.activation],
            "biased": int(mixture.biased),
        },
    )


def _down(mixture: Mixture, rows: int, tiles: int) -> tuple[Step, int]:
    """The launch, and into how many parts the hidden features are cut."""
    kernel = KERNELS[product_name("down", mixture.dtype, rows)]
    constants = kernel.constants_on(mixture.arch)
    columns = math.ceil(mixture.features / constants["COLUMNS"])
    turns = math.ceil(mixture.inner / constants["DEPTH"])
    span = math.ceil(turns / splits_of(tiles * columns, rows, turns, mixture.arch))
    span *= constants["DEPTH"]
    splits = math.ceil(mixture.inner / span)
    given: dict[str, Given] = {
        **{name: name for name in ("Hidden", "Down", "Gates", "Parts")},
        "DownBias": "DownBias" if mixture.biased else "Down",
        **_TILES,
        "pairs": mixture.pairs,
        "inner": mixture.inner,
        "features": mixture.features,
        "span": span,
        "biased": int(mixture.biased),
    }
    return Step(kernel, (tiles * columns, splits), given), splits


def _combine(mixture: Mixture, splits: int) -> Step:
    kernel = KERNELS[combine_name(mixture.dtype)]
    return Step(
        kernel,
        (mixture.tokens, math.ceil(mixture.features / kernel.constants["BLOCK"])),
        {
            **{name: name for name in ("Parts", "Experts", "Out")},
            "pairs": mixture.pairs,
            "slots": mixture.slots,
            "parts": splits,
            "features": mixture.features,
            "experts": mixture.experts,
        },
    )


def check(mixture: Mixture) -> None:
    """Check that there are kernels for a mixture.

    Raises:
        BackendError: There are none: of its type or activation, or for so many numbers.
        TargetError: There are none for the architecture.
    """
    said = (
        f"a mixture of {mixture.slots} out of {mixture.experts} experts, "
        f"{mixture.features} → {mixture.inner} {mixture.dtype} features"
    )
    if min(mixture.slots, mixture.experts, mixture.features, mixture.inner) < 1:
        raise BackendError(f"{said} is empty", fix="give every token one expert at least")
    if mixture.dtype not in DTYPES:
        raise BackendError(f"no kernel for {said}", fix=f"use {' or '.join(DTYPES)}")
    if mixture.activation not in _CODES:
        raise BackendError(
            f"no activation {mixture.activation!r} in {said}", fix=f"use {', '.join(_CODES)}"
        )
    if mixture.features % ALIGNMENT or mixture.inner % ALIGNMENT:
        raise BackendError(
            f"no kernel for {said}",
            fix=f"pad both with zeros to multiples of {ALIGNMENT}",
        )
    if mixture.experts > BINS[-1] or max(_spans(mixture)) >= _MOST:
        raise BackendError(
            f"{said}, {mixture.pairs} pairs of a token and an expert, is too large for the kernels",
            fix=f"use at most {BINS[-1]} experts, smaller ones, or fewer tokens at once",
        )


def _spans(mixture: Mixture) -> tuple[int, ...]:
    """Numbers that kernels hold in 32 bits."""
    tile = KERNELS[product_name("down", mixture.dtype, ROWS[0])].constants_on(mixture.arch)
    wide = max(mixture.inner, mixture.features)
    programs = (mixture.pairs + mixture.experts) * math.ceil(wide / tile["COLUMNS"])
    return mixture.inner * mixture.features, mixture.experts * wide, programs
