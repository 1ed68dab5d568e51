"""Cuts of a graph: the few values that everything behind them depends on.

Only what weights or tables have a part in counts: masks, positions and sizes that come from the
inputs alone are the same in both models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from sparsecc.passes.weights.layers import find_layers
from sparsecc.quality.segments import reads

MOST_CUTS = 16
"""Cuts that are looked at; more say little more about where a model goes astray."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place between two nodes.

    Attributes:
        values: Names of all values that pass it.
        judged: Names of those that are floating point.
    """

    values: tuple[str, ...]
    judged: tuple[str, ...]


def find_cuts(model: ir.Model) -> list[Cut]:
    """Cuts between the layers of a model, in the order of the graph.

    Between two layers that follow each other it is the last place that the fewest values pass; it
    counts where no more pass than at the cuts before and behind it. One more is behind the last
    layer, unless only outputs are left there.
    """
    nodes = list(model.graph)
    passing = _passing(model, nodes)
    layers = {layer.node for layer in find_layers(model).layers}
    numbers = [number for number, node in enumerate(nodes) if node in layers]
    if not numbers:
        return []
    outputs = set(model.graph.outputs)
    places: list[int] = []
    widths: list[int] = []
    for first, last in zip(numbers, [*numbers[1:], len(nodes)], strict=True):
        gap = [at for at in range(first + 1, last + 1) if not outputs >= set(passing[at])]
        counts = [len(_floats(passing[at])) for at in gap]
        least = min(counts, default=0)
        if least:
            fitting = [at for at, count in zip(gap, counts, strict=True) if count == least]
            places.append(fitting[0] if last == len(nodes) else fitting[-1])
            widths.append(least)
    around = [len(nodes), *widths, len(nodes)]
    narrow = [at for i, at in enumerate(places) if around[i] >= widths[i] <= around[i + 2]]
    return [_cut(passing[at]) for at in _thinned(narrow)]


def _passing(model: ir.Model, nodes: Sequence[ir.Node]) -> list[list[ir.Value]]:
    """For the place before each node, and behind the last: values that pass it."""
    tables = {
        value
        for value in model.graph.initializers.values()
        if _floats([value]) and value.shape is not None and len(value.shape) > 1
    }
    born: dict[ir.Value, int] = {}
    last: dict[ir.Value, int] = {}
    for number, node in enumerate(nodes):
        sources = reads(node)
        for value in sources:
            if value in born:
                last[value] = number
        if any(value in born or value in tables for value in sources):
            born.update(dict.fromkeys(node.outputs, number))
    last.update({value: len(nodes) for value in model.graph.outputs if value in born})
    found: list[list[ir.Value]] = [[] for _ in range(len(nodes) + 1)]
    for value, made in born.items():
        for place in range(made + 1, last.get(value, made) + 1):
            found[place].append(value)
    return found


def _floats(values: Sequence[ir.Value]) -> list[ir.Value]:
    return [v for v in values if v.dtype is None or v.dtype.is_floating_point()]


def _cut(values: Sequence[ir.Value]) -> Cut:
    names = tuple(value.name or "" for value in values)
    return Cut(names, tuple(value.name or "" for value in _floats(values)))


def _thinned(places: Sequence[int]) -> list[int]:
    """At most MOST_CUTS of the places, evenly, the last among them."""
    if len(places) <= MOST_CUTS:
        return list(places)
    chosen = [places[-1 - round(i * (len(places) - 1) / (MOST_CUTS - 1))] for i in range(MOST_CUTS)]
    return chosen[::-1]


__all__ = ["Cut", "find_cuts"]
