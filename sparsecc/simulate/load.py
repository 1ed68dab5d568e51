"""How uneven experts are loaded, and where they are put for it."""

from __future__ import annotations

import math

from sparsecc.simulate.model import Model


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

    Args:
        load: Of each expert.
        groups: How many; they divide the experts.
        by_load: Whether the heaviest expert that is left goes to the lightest group with room;
            otherwise experts stay in order.
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
    return placed


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
