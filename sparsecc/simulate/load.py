"""How uneven experts are loaded, and where they are put for it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparsecc.simulate.model import Model

_LEAST_GAIN = 1e-9
"""Of the heaviest group, so that rounding does not move experts for ever."""


def by_chance(model: Model, groups: int, tokens: float) -> float:
    """Largest load of a group of experts over the mean, if every token chooses at random.

    1 + √(2 ln G · variance / mean²) of the number of choices that fall on one of G equal groups;
    for one expert a group that is 1 + √(2 ln E · E (1 − k/E) / (T k)). Never more than all choices.

    Args:
        model: Its experts.
        groups: How many groups they are in.
        tokens: How many choose.
    """
    if groups == 1:
        return 1.0
    E, k = model.experts, model.top_k
    spread = groups * (1 - 1 / groups) * (E - k) / (E - 1) / (tokens * k)
    most = min(groups, E / k)  # all tokens choose experts of one group
    return min(most, 1 + math.sqrt(2 * math.log(groups) * spread))


def placement(load: tuple[float, ...], groups: int, *, by_load: bool) -> list[list[int]]:
    """Which experts each group has, equally many each.

    The heaviest group is within a fiftieth of the best that an integer program finds
    (``tests/sparsecc/simulate/test_load.py``).

    Args:
        load: Of each expert.
        groups: How many; they divide the experts.
        by_load: Whether the heaviest expert that is left goes to the lightest group with room, and
            pairs then change places while that helps the heaviest group; otherwise experts stay in
            order.
    """
    room = len(load) // groups
    if not by_load:
        return [list(range(group * room, (group + 1) * room)) for group in range(groups)]
    placed: list[list[int]] = [[] for _ in range(groups)]
    sums = [0.0] * groups
    for expert in sorted(range(len(load)), key=lambda each: -load[each]):
        free = (group for group in range(groups) if len(placed[group]) < room)
        lightest = min(free, key=lambda group: sums[group])
        placed[lightest].append(expert)
        sums[lightest] += load[expert]
    while _swapped(np.array(load), placed):
        pass
    return placed


def _swapped(load: NDArray[np.float64], placed: list[list[int]]) -> bool:
    """Let two experts change places so that the heaviest group is lightest; whether that helped."""
    sums = np.array([load[group].sum() for group in placed])
    top = int(sums.argmax())
    best, swap = sums[top] * (1 - _LEAST_GAIN), None
    for other in (group for group in range(len(placed)) if group != top):
        moved = load[placed[top]][:, None] - load[placed[other]]
        after = np.maximum(sums[top] - moved, sums[other] + moved)
        if after.min() < best:
            best, swap = after.min(), (other, *np.unravel_index(after.argmin(), after.shape))
    if swap is None:
        return False
    other, ours, theirs = swap
    mine, its = placed[top], placed[other]
    mine[ours], its[theirs] = its[theirs], mine[ours]
    return True


def heaviest(model: Model, groups: int, tokens: float, *, by_load: bool) -> list[float]:
    """Tokens of each expert in the group that has the most to do.

    Args:
        model: Its experts, with their load where one is given.
        groups: How many groups they are in; they divide the experts.
        tokens: How many tokens choose.
        by_load: See :func:`placement`.
    """
    each = tokens * model.top_k / model.experts
    if model.load is None:
        return [each * by_chance(model, groups, tokens)] * (model.experts // groups)
    unit = tokens * model.top_k / sum(model.load)
    placed = placement(model.load, groups, by_load=by_load)
    loads = [[min(tokens, unit * model.load[expert]) for expert in group] for group in placed]
    return max(loads, key=sum)


__all__ = ["by_chance", "heaviest", "placement"]
