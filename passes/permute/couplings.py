"""Which channels of a model are coupled, and which sets of them may change places.

Labels that are joined make a *class*: one channel, wherever it is. A label's *look* is which tags
it and those around it are in; no two labels of a class may look the same. Classes may change places
if all that is known of them is the same: the looks of their labels, how these are joined, what they
are nested in. Then every label takes the place of the one that looks like it.

There are three kinds of sets: single classes (the hidden features of an MLP, features inside a
head); a class with all that is nested in it (a channel and its pixels behind a Flatten, a query
head inside its group); and islands of nesting (heads, groups of a convolution), whole or without
what all of them share. Each is proved before use: no statement about labels may tell its members
apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from sparsecc.passes.edit import STANDARD
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.permute.flow import Flow
from sparsecc.passes.permute.labels import STAYS, Labels, Tag
from sparsecc.passes.permute.nesting import Nesting
from sparsecc.passes.permute.rules import RULES, unknown
from sparsecc.quality.segments import reads

Ids = NDArray[np.int64]
Keys = NDArray[np.uint64]

FAR = 3
"""Steps along joins after which labels look alike: a bias is told apart by the rows it meets."""
TWICE = "a channel meets another one of the same kind"


@dataclass(frozen=True)
class Coupled:
    """Channels that may change places.

    Attributes:
        units: ``[n, k]`` classes: n things that change places, each of k classes in like order.
    """

    units: Ids


@dataclass(frozen=True)
class Couplings:
    """What may move in a model.

    Attributes:
        classes: Label → class.
        looks: Label → a number that says which tags it, and those it is joined to, are in.
        sets: What may change places; each set by itself, inner ones first.
        constants: Initializer → the shape it is seen with, and its tags.
        tags: Any other value → its tag.
        stays: Class → name of the node that keeps it in place, and why.
    """

    classes: Ids
    looks: Keys
    sets: tuple[Coupled, ...]
    constants: dict[ir.Value, tuple[tuple[int, ...], tuple[Tag, ...]]]
    tags: dict[ir.Value, Tag]
    stays: dict[int, tuple[str, str]]


@dataclass(frozen=True)
class _Facts:
    """What tells classes apart.

    Attributes:
        looks: Class → a number that says how its labels look, and how they are joined.
        edges: ``[3, E]``: relation, child and parent.
        moves: Whether a class may move at all.
    """

    looks: Keys
    edges: Ids
    moves: NDArray[np.bool_]


def find_couplings(model: ir.Model) -> Couplings:
    """Which channels of a model in canonical form may change places, and what goes with them."""
    flow = follow(model)
    labels = flow.labels
    classes, looks = _classes(labels), _looks(labels)
    stays = _stays(labels, classes, looks)
    facts = _facts(labels, classes, looks, stays)
    sets = tuple(Coupled(units) for units in _sets(facts) if _matters(units, labels, classes))
    constants = {
        value: (seen, tuple(tags))
        for value, (seen, tags) in labels.constants.items()
        if value not in labels.sealed and tags
    }
    tags = {value: tag for value, tag in flow.tags.items() if value not in labels.constants}
    return Couplings(classes, looks, sets, constants, tags, stays)


def follow(model: ir.Model) -> Flow:
    """Labels of everything in a model, and what must hold of them."""
    labels = Labels()
    flow = Flow(labels, Shapes(model))
    for node in model.graph:
        read = reads(node)
        rule = RULES.get(node.op_type) if node.domain in STANDARD else None
        if rule is None or any(flow.sizes(value) is None for value in (*read, *node.outputs)):
            unknown(flow, node, read)
        else:
            rule(flow, node)
    for output in model.graph.outputs:
        labels.stay(flow.tag(output), "", f"the model's output {output.name!r}")
    return flow


def _classes(labels: Labels) -> Ids:
    """Label → class; numbers follow the first label of each."""
    one, other = (
        np.concatenate([pair[side] for pair in labels.joined] or [np.zeros(0, np.int64)])
        for side in (0, 1)
    )
    graph = scipy.sparse.coo_matrix(
        (np.ones(one.size, np.int8), (one, other)), (labels.count, labels.count)
    )
    found: Ids = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _looks(labels: Labels) -> Keys:
    """Label → a number that says which tags it is in, and those of labels that it is joined to."""
    rng = np.random.default_rng(0)
    looks = np.zeros(labels.count, np.uint64)
    for tag in labels.tags:
        looks[tag.ravel()] += rng.integers(1, 1 << 63, dtype=np.uint64)  # a label is there once
    for _ in range(FAR):
        before, looks = looks, _mixed(looks)
        for one, other in labels.joined:
            key = rng.integers(1, 1 << 63, dtype=np.uint64)
            np.add.at(looks, one, _mixed(before[other] + key))
            np.add.at(looks, other, _mixed(_mixed(before[one]) + key))
    return looks


def _stays(labels: Labels, classes: Ids, looks: Keys) -> dict[int, tuple[str, str]]:
    """Class → who keeps it in place and why; the first who did."""
    found: dict[int, tuple[str, str]] = {int(classes[STAYS]): ("", "it stays")}
    for kept, node, reason in labels.fixed:
        for each in np.unique(classes[kept]).tolist():
            found.setdefault(each, (node, reason))
    order = np.lexsort((looks, classes))
    twice = (np.diff(classes[order]) == 0) & (looks[order[1:]] == looks[order[:-1]])
    for children, parents, places in labels.nested:
        pairs = np.unique(np.stack([places, children, classes[parents]]), axis=1)
        same = (pairs[:2, 1:] == pairs[:2, :-1]).all(axis=0)
        for each in np.unique(classes[pairs[1, 1:][same]]).tolist():
            found.setdefault(each, ("", TWICE))
    for each in np.unique(classes[order[1:][twice]]).tolist():
        found.setdefault(each, ("", TWICE))
    return found


def _facts(labels: Labels, classes: Ids, looks: Keys, stays: dict[int, tuple[str, str]]) -> _Facts:
    count = int(classes.max()) + 1
    whole = np.zeros(count, np.uint64)
    np.add.at(whole, classes, _mixed(looks))
    rng = np.random.default_rng(1)
    for one, other in labels.joined:
        key = rng.integers(1, 1 << 63, dtype=np.uint64)
        np.add.at(whole, classes[one], _mixed(_mixed(looks[one] + key) + looks[other]))
    edges = [np.zeros((3, 0), np.int64)]
    relations = 0
    for children, parents, places in labels.nested:
        kinds = np.stack([places.astype(np.uint64), looks[children], looks[parents]])
        kind = np.unique(kinds, axis=1, return_inverse=True)[1].ravel()
        edges.append(np.stack([relations + kind, classes[children], classes[parents]]))
        relations += int(kind.max()) + 1
    moves = np.ones(count, bool)
    moves[list(stays)] = False
    return _Facts(whole, np.unique(np.concatenate(edges, axis=1), axis=1), moves)


def _sets(facts: _Facts) -> Iterator[Ids]:
    """Units of each set, proved, inner sets first."""
    relation, child, parent = facts.edges
    keys = np.random.default_rng(2).integers(1, 1 << 63, facts.looks.size, dtype=np.uint64)
    names = np.random.default_rng(3).integers(
        1, 1 << 63, int(relation.max(initial=0)) + 1, dtype=np.uint64
    ) | np.uint64(1)
    homes = np.zeros(facts.looks.size, np.uint64)
    np.add.at(homes, child, _mixed(names[relation] * keys[parent]))
    holds = np.zeros(facts.looks.size, bool)
    holds[parent] = True
    for members in _alike(np.flatnonzero(facts.moves & ~holds), _mixed(facts.looks) + homes):
        yield members[:, None]
    nesting = Nesting(child, parent, facts.looks, facts.moves)
    tops = [nesting.inside(int(top)) for top in np.flatnonzero(facts.moves & holds)]
    around = np.zeros(len(tops), np.uint64)
    for at, unit in enumerate(tops):
        out = nesting.above(unit)
        out = out[~np.isin(parent[out], unit)]
        bonds = _mixed(names[relation[out]] * keys[parent[out]] + _mixed(facts.looks[child[out]]))
        around[at] = np.concatenate([_mixed(facts.looks[unit]), bonds]).sum()
    known = list[Ids]()
    for members in _alike(np.arange(len(tops)), around):
        known += _proved(facts, [tops[each] for each in members])
    known += _proved(facts, nesting.islands())
    seen: set[bytes] = set()
    for units in sorted(known, key=lambda each: each.shape[1]):
        ordered = np.sort(units, axis=1)
        if (mark := ordered[np.argsort(ordered[:, 0])].tobytes()) not in seen:
            seen.add(mark)
            yield units


def _mixed(numbers: Keys) -> Keys:
    """The finaliser of splitmix64: sums of its values are as good as told apart by chance."""
    z = numbers.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def _alike(members: Ids, keys: Keys) -> Iterator[Ids]:
    """Members with equal keys, two or more."""
    order = members[np.argsort(keys[members], kind="stable")]
    cuts = np.flatnonzero(np.diff(keys[order].astype(np.uint64)) != 0) + 1
    groups = [group for group in np.split(order, cuts) if group.size > 1]
    yield from sorted(groups, key=lambda group: int(group[0]))


def _proved(facts: _Facts, candidates: Sequence[Ids]) -> Iterator[Ids]:
    """Sets of units that nothing tells apart."""
    alike: dict[bytes, list[Ids]] = {}
    for each in candidates:
        if facts.moves[each].all():
            ordered = each[np.lexsort((each, facts.looks[each]))]
            alike.setdefault(facts.looks[ordered].tobytes(), []).append(ordered)
    for group in alike.values():
        units = np.stack(group)
        if len(units) > 1 and np.unique(units).size == units.size and _same(facts, units):
            yield units


def _same(facts: _Facts, units: Ids) -> bool:
    """Whether every unit's nesting is that of the first, with its own classes in their places."""
    count, width = units.shape
    place = np.full(facts.looks.size, -1)
    place[units] = np.arange(units.size).reshape(units.shape)
    relation, child, parent = facts.edges
    touched = (place[child] >= 0) | (place[parent] >= 0)
    ends = np.stack([child[touched], parent[touched]])
    inside = place[ends] >= 0
    owner = np.where(inside, place[ends] // width, -1)
    if ((owner[0] != owner[1]) & inside.all(axis=0)).any():
        return False
    seen = np.where(inside, place[ends] % width, width + ends)
    rows = np.stack([owner.max(axis=0), relation[touched], *seen])
    rows = rows[:, np.lexsort(rows[::-1])]
    if rows.shape[1] % count:
        return False
    tables = rows.reshape(4, count, -1)
    owners = tables[0] == np.arange(count)[:, None]
    return bool(owners.all() and (tables[1:] == tables[1:, :1]).all())


def _matters(units: Ids, labels: Labels, classes: Ids) -> bool:
    """Whether any weight moves with a set."""
    first = units[0]
    return any(
        np.isin(first, classes[tag]).any() for _, tags in labels.constants.values() for tag in tags
    )


__all__ = ["Coupled", "Couplings", "find_couplings"]
