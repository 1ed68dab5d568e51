"""Which experts of a mixture become one, and its weights: the mean, neuron by matching neuron.

Sources: Li et al., Merge, Then Compress (M-SMoE, arXiv 2310.01334) for means weighted by how often
experts are chosen, after their neurons are matched; Chen et al., HC-SMoE (arXiv 2410.08589) for a
hierarchy of groups by what experts give on the same tokens. Here groups are joined by what that
loses: Ward's sum of squares, in which each expert counts as often as it is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sparsecc.ops.moe import expert
from sparsecc.passes.experts.find import Mixture, Weights
from sparsecc.passes.experts.routing import Floats

_MOST_TOKENS, _MOST_ELEMENTS = 512, 1 << 26
"""On which outputs are compared, and of all outputs at once."""
_RARE = 1e-6
"""Weight of an expert that nobody chose, as a share of all choices: it goes where it fits best."""
_HIDDEN_LAST = ("down",)
"""Weights whose neurons are columns; of the others they are rows."""
_SHARED = ("down_bias",)
"""What is of no neuron."""

Doubles = NDArray[np.float64]


def distances(mixture: Mixture, tokens: Floats) -> Doubles:
    """Mean squared distance of what two experts make of a token ``[E, E]``."""
    most = min(_MOST_TOKENS, _MOST_ELEMENTS // max(1, mixture.count * tokens.shape[1]))
    some = tokens[:: max(1, -(-len(tokens) // max(1, most)))]
    made = np.stack([expert(mixture.activation, some, each) for each in _each(mixture.weights)])
    flat = made.reshape(mixture.count, -1).astype(np.float64)
    gram = flat @ flat.T
    norms = np.diag(gram)
    found: Doubles = np.maximum(norms[:, None] + norms - 2 * gram, 0) / max(1, len(some))
    return found


def _each(weights: Weights) -> list[Weights]:
    return [
        {name: weight[e] for name, weight in weights.items()} for e in range(len(weights["up"]))
    ]


def joined(distance: Doubles, chosen: Sequence[int], kept: int) -> list[int]:
    """The places of experts in so many groups, in the order of the first of each.

    Args:
        distance: Of two experts ``[E, E]``.
        chosen: How often each is.
        kept: How many groups.
    """
    count = len(distance)
    mass = np.asarray(chosen, np.float64) + _RARE * max(1, sum(chosen))
    costs = distance * mass[:, None] * mass / (mass[:, None] + mass)
    group = np.arange(count)
    np.fill_diagonal(costs, np.inf)
    for _ in range(count - kept):
        one, other = sorted(np.unravel_index(int(costs.argmin()), costs.shape))
        rest = (mass[one] + mass) * costs[one] + (mass[other] + mass) * costs[other]
        costs[one] = (rest - mass * costs[one, other]) / (mass[one] + mass[other] + mass)
        costs[:, one] = costs[one]
        costs[one, one] = costs[other] = costs[:, other] = np.inf
        mass[one] += mass[other]
        group[group == other] = one
    places = {first: place for place, first in enumerate(dict.fromkeys(group.tolist()))}
    return [places[first] for first in group.tolist()]


def merged(weights: Weights, places: Sequence[int], chosen: Sequence[int]) -> Weights:
    """The weights of the experts that are left.

    Args:
        weights: Of all.
        places: Expert → its place among those; below 0 where it is gone.
        chosen: How often each is chosen: what it counts in the mean of a group. The one that is
            most says where neurons are.
    """
    parts, made = _each(weights), []
    for place in range(max(places) + 1):
        own = [e for e, at in enumerate(places) if at == place]
        if len(own) == 1:
            made.append(parts[own[0]])
            continue
        first = max(own, key=lambda e: chosen[e])
        counts = np.array([chosen[e] for e in own], np.float64)
        shares = counts / counts.sum() if counts.any() else np.full(len(own), 1 / len(own))
        alike = [parts[e] if e == first else matched(parts[e], parts[first]) for e in own]
        made.append({name: _mean([each[name] for each in alike], shares) for name in weights})
    return {name: np.stack([each[name] for each in made]) for name in weights}


def _mean(arrays: Sequence[NDArray[np.float32]], shares: Doubles) -> NDArray[np.float32]:
    total = np.zeros(arrays[0].shape)
    for array, share in zip(arrays, shares, strict=True):
        total += share * array
    return total.astype(np.float32)


def matched(weights: Weights, like: Weights) -> Weights:
    """An expert with its neurons in the order of those of another that are most like them."""
    likeness = sum(
        _rows(name, weight) @ _rows(name, like[name]).T
        for name, weight in weights.items()
        if name not in _SHARED
    )
    _, order = linear_sum_assignment(np.asarray(likeness).T, maximize=True)
    return {
        name: weight if name in _SHARED else np.take(weight, order, axis=int(name in _HIDDEN_LAST))
        for name, weight in weights.items()
    }


def _rows(name: str, weight: NDArray[np.float32]) -> Doubles:
    """What belongs to each neuron, at the scale of its weight."""
    rows = weight.T if name in _HIDDEN_LAST else weight.reshape(len(weight), -1)
    scale = float(np.linalg.norm(rows)) or 1.0
    found: Doubles = rows.astype(np.float64) / scale
    return found


__all__ = ["distances", "joined", "matched", "merged"]
