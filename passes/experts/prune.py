"""Which experts a mixture can do without: those whose outputs, times their gates, are least.

Source: REAP (Lasby et al., arXiv 2510.13999) for gates times norms of outputs as what an expert is
worth; here they are squared and summed over tokens, which is what the result loses where an expert
gives nothing. Tokens go to the next best of those that stay, with the router's gate for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsecc.ops.moe import expert
from sparsecc.passes.experts.find import Mixture
from sparsecc.passes.experts.routing import Ids, Routed

GONE = -1
"""The place of an expert that is not there any more."""


def worths(mixture: Mixture, routed: Routed) -> NDArray[np.float64]:
    """Of each expert the sum of squares of all that it adds ``[E]``."""
    found = np.zeros(mixture.count)
    for e in np.unique(routed.experts):
        tokens, slots = np.nonzero(routed.experts == e)
        made = expert(
            mixture.activation,
            routed.tokens[tokens],
            {name: weight[e] for name, weight in mixture.weights.items()},
        )
        found[e] = np.sum(np.square(made * routed.gates[tokens, slots, None], dtype=np.float64))
    return found


def pruned(worth: NDArray[np.float64], chosen: Ids, kept: int) -> list[int]:
    """The places of experts, of which so many stay in their order.

    Args:
        worth: Of each.
        chosen: How often each is chosen, where they are worth the same.
        kept: How many stay.
    """
    best = np.lexsort((np.arange(len(worth)), -chosen, -worth))[:kept]
    places = np.full(len(worth), GONE)
    places[np.sort(best)] = np.arange(kept)
    return [int(place) for place in places]


__all__ = ["GONE", "pruned", "worths"]
