"""What hangs together by nesting: candidates for things that change places as wholes."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

MOST_KINDS = 32
"""Kinds of holders in an island up to which its parts are looked for."""


class Nesting:
    """Which classes are nested in which.

    Args:
        child: Of each edge.
        parent: Of each edge.
        looks: Class → a number, the same for classes that look alike.
        moves: Class → whether it may move at all.
    """

    def __init__(self, child: Ids, parent: Ids, looks: NDArray[np.uint64], moves: Flags) -> None:
        self._ends = np.stack([child, parent])
        self._looks, self._moves = looks, moves
        self._order = np.argsort(self._ends, axis=1, kind="stable")
        self._held = [np.bincount(end, minlength=looks.size) for end in self._ends]
        self._stops = np.cumsum(self._held, axis=1)

    def above(self, classes: Ids) -> Ids:
        """The edges from classes to what they are nested in."""
        return self._edges(0, classes)

    def inside(self, top: int) -> Ids:
        """A class, everything nested in it, and what holds nothing but such things.

        The latter is as the norm of one head's queries: it is of no other head.
        """
        child, parent = self._ends
        found = more = np.array([top])
        while more.size:
            inner = np.setdiff1d(child[self._edges(1, more)], found)
            found = np.union1d(found, inner)
            outer, held = np.unique(parent[self.above(found)], return_counts=True)
            own = np.setdiff1d(outer[held == self._held[1][outer]], found)
            found, more = np.union1d(found, own), np.concatenate([inner, own])
        return found

    def islands(self) -> list[Ids]:
        """Classes that nesting connects, where all may move; then parts of such.

        An island falls into parts without that which holds something of every part: heads whose
        features share a norm hang together by its scales, and features of all heads by the heads.
        """
        child, parent = self._ends[:, self._moves[self._ends].all(axis=0)]
        whole = _connected(child, parent)
        return whole + [part for island in whole for part in self._parts(island)]

    def _parts(self, island: Ids) -> list[Ids]:
        """Two kinds of holders agree if what they hold falls apart; a part has what agrees."""
        edges = np.sort(self.above(island))
        child, parent = self._ends[:, edges]
        kind = self._looks[parent]
        kinds = np.unique(kind)
        if not 1 < kinds.size <= MOST_KINDS:
            return []
        agree = [
            [_falls_apart(child, parent, np.isin(kind, (one, other))) for other in kinds]
            for one in kinds
        ]
        rows = [row for row in np.unique(agree, axis=0) if not row.all()]
        used = [np.isin(kind, kinds[row]) for row in rows]
        return [part for each in used for part in _connected(child[each], parent[each])]

    def _edges(self, end: int, classes: Ids) -> Ids:
        """The edges that have classes at one end."""
        stops, held = self._stops[end][classes], self._held[end][classes]
        runs = zip((stops - held).tolist(), stops.tolist(), strict=True)
        return np.concatenate([self._order[end, start:stop] for start, stop in runs])


def _falls_apart(child: Ids, parent: Ids, used: Flags) -> bool:
    """Whether edges and all those below them are of several islands."""
    while True:
        more = used | np.isin(parent, child[used])
        if (more == used).all():
            return len(_connected(child[used], parent[used])) > 1
        used = more


def _connected(child: Ids, parent: Ids) -> list[Ids]:
    """Classes that edges connect, those of the lowest number first."""
    members, ends = np.unique(np.concatenate([child, parent]), return_inverse=True)
    graph = scipy.sparse.coo_matrix(
        (np.ones(child.size, np.int8), (ends[: child.size], ends[child.size :])),
        (members.size, members.size),
    )
    island = connected_components(graph, directed=False)[1]
    order = np.argsort(island, kind="stable")
    cuts = np.flatnonzero(np.diff(island[order])) + 1
    return np.split(members[order], cuts) if members.size else []
