"""The order of channels under which blocks of zeros cost least.

The energy that a pattern keeps is a sum over its blocks. For a given threshold τ between kept and
dropped blocks it is Σ max(e − τ, 0) up to a constant; for N:M it is what the largest of each group
sum up to.
Both change in the same way when one member of a block is exchanged: with T the threshold less the
energy of the other members (for N:M: the smallest of them that is kept), a new member v adds
Σ max(v − T, 0). So one member is taken out of each block, and who goes where is an assignment
problem, solved exactly. That is repeated from a greedy start with members drawn at random; what is
kept never falls. The effort is bounded in numbers looked at, so results do not depend on the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Order = NDArray[np.int64]
Floats = NDArray[np.float32]

EFFORT = 600_000_000
"""Numbers looked at for one set of channels."""
ROUNDS = 400
"""Assignments at most; later ones find little."""
PATIENCE = 24
"""Assignments in a row that gain nothing, after which the search ends."""
AT_ONCE = 192
"""Blocks that exchange members in one round."""


@dataclass(frozen=True)
class Term:
    """One weight whose blocks depend on the order of a set of channels.

    Attributes:
        scores: ``[n, D]``: of each channel, one column for every place where it can be in a block.
        side: Channels in a block.
        keep: How many of a block are kept (N:M); 0 for blocks that are kept or dropped whole.
        density: Share of all blocks that is kept; unused by N:M.
        rest: Energies of the weight's other blocks, which compete for being kept.
    """

    scores: Floats
    side: int
    keep: int = 0
    density: float = 1.0
    rest: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def whole(self) -> float:
        """All energy there is."""
        return float(self.scores.sum(dtype=np.float64) + self.rest.sum(dtype=np.float64))


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        order: Where the i-th channel was comes channel ``order[i]``.
        before: Share of the energy that the pattern kept, over all terms.
        after: Share that it keeps now.
    """

    order: Order
    before: float
    after: float


def search(terms: Sequence[Term], *, seed: int = 0, effort: int = EFFORT) -> Found:
    """Look for the order of channels under which the terms keep most.

    Args:
        terms: All of as many channels; each counts as the share of its energy that is kept.
        seed: Of the members that are drawn.
        effort: Numbers looked at.

    Returns:
        An order that keeps at least as much as the one they are in.
    """
    count, side = len(terms[0].scores), max(term.side for term in terms)
    before = retained(terms, np.arange(count))
    starts = [np.arange(count), by_size(terms), greedy(terms)]
    best = max(starts, key=lambda order: retained(terms, order))
    best = refined(terms, best, seed=seed, effort=effort) if count >= 2 * side else best
    return Found(best, before, retained(terms, best))


def retained(terms: Sequence[Term], order: Order) -> float:
    """Mean share of the energy that the terms keep when channels are in this order."""
    return float(np.mean([_kept(term, order) / max(term.whole, 1e-30) for term in terms]))


def by_size(terms: Sequence[Term]) -> Order:
    """Channels by all their energy, the largest first."""
    return np.argsort(-_sizes(terms), kind="stable")


def greedy(terms: Sequence[Term]) -> Order:
    """Block after block: the largest channel left, then those that fit it best."""
    count, side = len(terms[0].scores), max(term.side for term in terms)
    sizes, free, order = _sizes(terms), np.ones(count, bool), list[int]()
    levels = [_threshold(term, np.arange(count)) / term.side for term in terms]
    weights = [1 / max(term.whole, 1e-30) for term in terms]
    while free.sum() > side:
        chosen = [int(np.argmax(np.where(free, sizes, -np.inf)))]
        free[chosen[0]] = False
        while len(chosen) < side:
            left = np.flatnonzero(free)
            gains = np.zeros(left.size)
            for term, level, weight in zip(terms, levels, weights, strict=True):
                held = term.scores[chosen].sum(0) - level * (len(chosen) + 1)
                gains += weight * np.maximum(term.scores[left] + held, 0).sum(1)
            chosen.append(int(left[np.argmax(gains)]))
            free[chosen[-1]] = False
        order += chosen
    return np.array(order + np.flatnonzero(free).tolist())


def refined(terms: Sequence[Term], order: Order, *, seed: int, effort: int) -> Order:
    """Exchange members between blocks, one of each at a time, as long as it gains."""
    rng = np.random.default_rng(seed)
    side = max(term.side for term in terms)
    blocks = len(order) // side
    best, most = order, retained(terms, order)
    places = sum(term.scores.shape[1] for term in terms)
    spent = idle = 0
    for _ in range(ROUNDS):
        chosen = rng.permutation(blocks)[:AT_ONCE]
        spent += chosen.size**2 * places
        if spent > effort or idle == PATIENCE:
            break
        slots = chosen * side + rng.integers(0, side, chosen.size)
        gains = np.sum([_gains(term, best, slots) for term in terms], axis=0)
        _, taken = linear_sum_assignment(gains, maximize=True)
        tried = best.copy()
        tried[slots] = best[slots[taken]]
        kept = retained(terms, tried)
        idle = 0 if kept > most else idle + 1
        if kept > most:
            best, most = tried, kept
    return best


def _gains(term: Term, order: Order, slots: Order) -> NDArray[np.float64]:
    """``[slots, slots]``: what the channel of one slot would add in the place of another's."""
    moving = term.scores[order[slots]]
    first = slots - slots % term.side
    others = np.stack([term.scores[order[first + at]] for at in range(term.side)])
    mine = slots % term.side
    others[mine, np.arange(slots.size)] = 0 if not term.keep else -np.inf
    if term.keep:
        levels = np.partition(others, term.side - term.keep, axis=0)[term.side - term.keep]
    else:
        levels = _threshold(term, order) - others.sum(0)
    gains, room = np.empty((slots.size, slots.size)), np.empty_like(moving)
    for at, level in enumerate(levels):
        np.subtract(moving, level, out=room)
        np.maximum(room, 0, out=room)
        gains[at] = room.sum(1)
    gains /= max(term.whole, 1e-30)
    return gains


def _energies(term: Term, order: Order) -> Floats:
    """``[blocks, D]`` of all blocks, the last one maybe short."""
    sums: Floats = np.add.reduceat(term.scores[order], np.arange(0, len(order), term.side), axis=0)
    return sums


def _threshold(term: Term, order: Order) -> float:
    """Energy between the blocks that are kept and those that are not."""
    if term.keep:
        return 0.0
    energies = np.concatenate([_energies(term, order).ravel(), term.rest])
    drop = round((1 - term.density) * energies.size)
    if not 0 < drop < energies.size:
        return 0.0
    return float(np.partition(energies, drop - 1)[drop - 1])


def _kept(term: Term, order: Order) -> float:
    if not term.keep:
        energies = np.concatenate([_energies(term, order).ravel(), term.rest])
        drop = round((1 - term.density) * energies.size)
        if drop <= 0:
            return float(energies.sum(dtype=np.float64))
        return float(np.partition(energies, drop - 1)[drop:].sum(dtype=np.float64))
    full = len(order) - len(order) % term.side
    grouped = term.scores[order[:full]].reshape(-1, term.side, term.scores.shape[1])
    top = np.partition(grouped, term.side - term.keep, axis=1)[:, term.side - term.keep :]
    tail = np.sort(term.scores[order[full:]], axis=0)[::-1][: term.keep]
    return float(top.sum(dtype=np.float64) + tail.sum(dtype=np.float64))


def _sizes(terms: Sequence[Term]) -> NDArray[np.float64]:
    """All energy of each channel, in shares of the terms'."""
    sizes = [t.scores.sum(1, dtype=np.float64) / max(t.whole, 1e-30) for t in terms]
    total: NDArray[np.float64] = np.sum(sizes, axis=0)
    return total


__all__ = ["Found", "Order", "Term", "by_size", "greedy", "refined", "retained", "search"]
