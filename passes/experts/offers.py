"""What a mixture of experts could do with: fewer experts, by either means, and what that loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparsecc import ops
from sparsecc.passes.experts.find import Weights
from sparsecc.passes.experts.merge import distances, joined, merged
from sparsecc.passes.experts.prune import pruned, worths
from sparsecc.passes.experts.refit import refitted
from sparsecc.passes.experts.routing import Floats, Observed, Routed, Sample
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
            "refit": best.said.refit,
            "loss": best.said.loss,
            "predicted_ms": best.said.predicted_ms,
            "options": options,
            "reason": "",
        }
        return self.whole.model_copy(update=chosen)


def weigh(seen: Observed, kept: Sequence[int], target: Target, *, refit: bool = True) -> Weighed:
    """Leave a mixture so many experts, by either means.

    Args:
        seen: The mixture on calibration data.
        kept: Numbers of experts.
        target: What times are estimated for.
        refit: Whether weights that stay may change where that helps on held-out data.
    """
    mixture, traffic = seen.mixture, seen.traffic
    chosen = tuple(traffic.chosen.tolist())
    routing = routing_of(mixture.node, mixture.count, chosen)
    weights = {name: each for name, each in mixture.weights.items() if not name.endswith("_bias")}
    found = list(_fewer(seen, kept, refit))
    routings = [routing]
    routings += [routing_of(mixture.node, len(each.loads), each.loads) for each in found]
    whole_ms, *times = PackMixtures(target).estimates(weights, routings)
    bytes_each = sum(each[0].nbytes for each in mixture.weights.values())
    offers = [
        Offer(
            PlanOfFewer(
                means="prune" if min(each.places) < 0 else "merge",
                kept=len(each.loads),
                refit=each.refit,
                loss=each.loss,
                predicted_ms=ms,
                weight_bytes=len(each.loads) * bytes_each,
            ),
            each.places,
            each.loads,
        )
        for each, ms in zip(found, times, strict=True)
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


class _Fewer(NamedTuple):
    """Fewer experts, and what comes of them."""

    places: tuple[int, ...]
    loads: tuple[int, ...]
    refit: bool
    loss: float


def _fewer(seen: Observed, kept: Sequence[int], refit: bool) -> Iterator[_Fewer]:
    if not kept:
        return
    chosen = seen.traffic.chosen
    wanted = result(seen, seen.held_out.routed(), seen.mixture.weights)

    can_refit = refit and seen.held_out.way.rows == 1 and seen.held_out is not seen.train

    def offer(places: Sequence[int]) -> _Fewer:
        routed = rerouted(seen.held_out, places)
        losses = {
            fitted: relative_error(wanted, result(seen, routed, left(seen, places, fitted)))
            for fitted in (False, True)[: 1 + can_refit]
        }
        best = min(losses, key=lambda fitted: losses[fitted])
        loads = np.bincount(routed.experts.ravel(), minlength=max(places) + 1)
        return _Fewer(tuple(places), tuple(loads.tolist()), best, float(losses[best]))

    train = seen.train.routed()
    if seen.mixture.choice is not None:
        worth = worths(seen.mixture, train)
        numbers = (each for each in kept if each >= seen.mixture.least)
        yield from (offer(pruned(worth, chosen, number)) for number in numbers)
    apart = distances(seen.mixture, train.tokens)
    yield from (offer(joined(apart, chosen.tolist(), number)) for number in kept)


def rerouted(sample: Sample, places: Sequence[int]) -> Routed:
    """What comes to the experts that are left, by their numbers."""
    table = np.array(places)
    routed = sample.routed(table >= 0 if min(places) < 0 else None)
    return routed._replace(experts=np.maximum(table, 0)[routed.experts])


def left(seen: Observed, places: Sequence[int], refit: bool) -> Weights:
    """The weights of the experts that are left."""
    mixture = seen.mixture
    weights = merged(mixture.weights, places, seen.traffic.chosen.tolist())
    if not refit:
        return weights
    wanted = ops.mixture(mixture.activation, *seen.train.routed(), mixture.weights)
    return refitted(mixture.activation, rerouted(seen.train, places), weights, wanted)


def result(seen: Observed, routed: Routed, weights: Weights) -> Floats:
    """What the mixture gives each token ``[T, d]``."""
    made = ops.mixture(seen.mixture.activation, *routed, weights)
    of_tokens: Floats = made.reshape(-1, seen.held_out.way.rows, made.shape[1]).sum(axis=1)
    return of_tokens


__all__ = ["Offer", "Weighed", "left", "weigh"]
