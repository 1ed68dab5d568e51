"""What a mixture of experts could do with: fewer experts, by either means, and what that loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparsecc import ops
from sparsecc.passes.experts.find import Weights
from sparsecc.passes.experts.merge import distances, joined, merged
from sparsecc.passes.experts.prune import pruned, worths
from sparsecc.passes.experts.routing import Floats, Ids, Observed, Routed
from sparsecc.passes.weights.pack_mixtures import PackMixtures, routing_of
from sparsecc.quality.metrics import relative_error
from sparsecc.search.routing import PlanMixture, PlanOfFewer
from sparsecc.targets import Target

NOT_ASKED = "no fewer were asked for"


@dataclass(frozen=True)
class Offer:
    """Fewer experts.

    Attributes:
        said: As a plan lists it.
        places: Expert → its number among those that are left.
        loads: How often each of these is chosen.
    """

    said: PlanOfFewer
    places: tuple[int, ...]
    loads: tuple[int, ...]


@dataclass(frozen=True)
class Weighed:
    """A mixture and all that was weighed for it.

    Attributes:
        whole: As a plan says it where all experts stay.
        offers: Those of a number of experts beside one another.
    """

    whole: PlanMixture
    offers: tuple[Offer, ...]

    def chosen(self, fits: Callable[[PlanOfFewer], bool], reason: str) -> PlanMixture:
        """The fewest experts that fit, by the means that loses less; all, with the reason, else."""
        fitting = [each for each in self.offers if fits(each.said)]
        options = tuple(each.said for each in self.offers)
        if not fitting:
            return self.whole.model_copy(update={"options": options, "reason": reason})
        best = min(fitting, key=lambda each: (each.said.kept, each.said.loss))
        chosen = {
            "places": best.places,
            "loads": best.loads,
            "loss": best.said.loss,
            "predicted_ms": best.said.predicted_ms,
            "options": options,
            "reason": "",
        }
        return self.whole.model_copy(update=chosen)


def weigh(seen: Observed, kept: Sequence[int], target: Target) -> Weighed:
    """Leave a mixture so many experts, by either means.

    Args:
        seen: The mixture on calibration data.
        kept: Numbers of experts.
        target: What times are estimated for.
    """
    mixture, traffic = seen.mixture, seen.traffic
    chosen = tuple(traffic.chosen.tolist())
    routing = routing_of(mixture.node, mixture.count, chosen)
    weights = {name: each for name, each in mixture.weights.items() if not name.endswith("_bias")}
    found = list(_fewer(seen, kept))
    routings = [routing, *(routing_of(mixture.node, len(loads), loads) for *_, loads in found)]
    whole_ms, *times = PackMixtures(target).estimates(weights, routings)
    bytes_each = sum(each[0].nbytes for each in mixture.weights.values())
    offers = [
        Offer(
            PlanOfFewer(
                means="prune" if min(places) < 0 else "merge",
                kept=len(loads),
                loss=loss,
                predicted_ms=ms,
                weight_bytes=len(loads) * bytes_each,
            ),
            places,
            loads,
        )
        for (places, loss, loads), ms in zip(found, times, strict=True)
    ]
    whole = PlanMixture(
        name=mixture.name,
        tokens=traffic.tokens,
        chosen=chosen,
        gates=tuple(traffic.gates.tolist()),
        places=tuple(range(mixture.count)),
        loads=chosen,
        predicted_ms=whole_ms,
        dense_ms=whole_ms,
        reason=NOT_ASKED,
    )
    return Weighed(whole, tuple(offers))


_Fewer = tuple[tuple[int, ...], float, tuple[int, ...]]
"""Places, loss and loads."""


def _fewer(seen: Observed, kept: Sequence[int]) -> Iterator[_Fewer]:
    if not kept:
        return
    mixture, chosen = seen.mixture, seen.traffic.chosen
    train, held_out = seen.train.routed(), seen.held_out.routed()
    wanted = _result(seen, held_out, mixture.weights)

    def offer(places: Sequence[int], routed: Routed, weights: Weights, loads: Ids) -> _Fewer:
        loss = relative_error(wanted, _result(seen, routed, weights))
        return tuple(places), float(loss), tuple(int(load) for load in loads)

    if mixture.choice is not None:
        worth = worths(mixture, train)
        for number in (each for each in kept if each >= mixture.least):
            places = pruned(worth, chosen, number)
            left = np.array(places) >= 0
            routed = seen.held_out.routed(left)
            loads = np.bincount(routed.experts.ravel(), minlength=mixture.count)[left]
            yield offer(places, routed, mixture.weights, loads)
    apart = distances(mixture, train.tokens)
    for number in kept:
        places = joined(apart, chosen.tolist(), number)
        routed = held_out._replace(experts=np.array(places)[held_out.experts])
        weights = merged(mixture.weights, places, chosen.tolist())
        loads = np.array([chosen[np.equal(places, each)].sum() for each in range(number)])
        yield offer(places, routed, weights, loads)


def _result(seen: Observed, routed: Routed, weights: Weights) -> Floats:
    """What the mixture gives each token ``[T, d]``."""
    made = ops.mixture(seen.mixture.activation, *routed, weights)
    of_tokens: Floats = made.reshape(-1, seen.held_out.way.rows, made.shape[1]).sum(axis=1)
    return of_tokens


__all__ = ["Offer", "Weighed", "weigh"]
