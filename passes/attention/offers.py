"""What a head of a video transformer may keep: a table of modes, each at a few densities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import PlanError
from sparsecc.passes.attention import modes
from sparsecc.passes.attention.modes import Grid, Mode, Pattern

DENSITIES = (0.05, 0.1, 0.2, 0.4)
"""Shares of blocks that bands and stripes are offered at; one block may be more than that."""


@dataclass(frozen=True)
class Offer:
    """A mode with its setting.

    Attributes:
        mode: What kind of pattern.
        setting: Half the width of a band in blocks, or how many stripes; 0 where there is none.
        keys: The blocks of keys that stripes are, in ascending order.
    """

    mode: Mode
    setting: int = 0
    keys: tuple[int, ...] = ()

    def pattern(self, grid: Grid, block: int) -> Pattern:
        """The blocks that it keeps.

        Raises:
            PlanError: It has no such setting.
        """
        return MODES[self.mode](grid, block, self)


def _without_setting(make: Callable[[Grid, int], Pattern]) -> Callable[..., Pattern]:
    def pattern(grid: Grid, block: int, offer: Offer) -> Pattern:
        if offer.setting or offer.keys:
            raise _misfit(offer)
        return make(grid, block)

    return pattern


def _band(make: Callable[[Grid, int, int], Pattern]) -> Callable[..., Pattern]:
    def pattern(grid: Grid, block: int, offer: Offer) -> Pattern:
        if offer.keys:
            raise _misfit(offer)
        return make(grid, block, offer.setting)

    return pattern


def _stripes(grid: Grid, block: int, offer: Offer) -> Pattern:
    ordered = list(offer.keys) == sorted({*offer.keys})
    inside = not offer.keys or (offer.keys[0] >= 0 and offer.keys[-1] < -(-grid.tokens // block))
    if not (ordered and inside and offer.setting == len(offer.keys)):
        raise _misfit(offer)
    return modes.vertical(grid, block, offer.keys)


def _misfit(offer: Offer) -> PlanError:
    return PlanError(
        f"no {offer.mode} pattern of setting {offer.setting} and {len(offer.keys)} blocks of keys",
        fix="bands have half a width in blocks, stripes as many blocks of keys, others neither",
    )


MODES: dict[Mode, Callable[[Grid, int, Offer], Pattern]] = {
    "full": _without_setting(modes.full),
    "skip": _without_setting(modes.skip),
    "diagonal": _band(modes.diagonal),
    "multi-diagonal": _band(modes.multi_diagonal),
    "vertical": _stripes,
}
"""How each mode makes its pattern, from a grid, the tokens of a block and what is offered."""

FULL, SKIP = Offer("full"), Offer("skip")


def offers(grid: Grid, block: int, mass: NDArray[np.floating]) -> list[Offer]:
    """All that is tried for a head besides :data:`FULL`.

    Args:
        grid: Of the tokens.
        block: Tokens of a block.
        mass: What every key gets of the head's softmax, summed over queries [tokens].
    """
    stripes = _sparse(grid, block, _of_mass(grid, block, mass))
    return [SKIP, *bands(grid, block, "diagonal"), *bands(grid, block, "multi-diagonal"), *stripes]


def bands(grid: Grid, block: int, mode: Mode) -> list[Offer]:
    """What is tried of a mode whatever a head looks at, from narrow to wide."""
    if mode == "multi-diagonal" and grid.frames == 1:
        return []
    widths = {modes.band_of(grid, block, density) for density in (None, *DENSITIES)}
    return _sparse(grid, block, (Offer(mode, width) for width in sorted(widths)))


def _sparse(grid: Grid, block: int, tried: Iterable[Offer]) -> list[Offer]:
    return [each for each in tried if each.pattern(grid, block).density < 1]


def _of_mass(grid: Grid, block: int, mass: NDArray[np.floating]) -> Iterator[Offer]:
    for stripes in sorted({modes.stripes_of(grid, block, density) for density in DENSITIES}):
        keys = modes.heaviest(grid, block, stripes, mass)
        yield Offer("vertical", len(keys), keys)
