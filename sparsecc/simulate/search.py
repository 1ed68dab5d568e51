"""Which choices fit in memory, and which of them are the fastest."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparsecc.errors import SimulationError
from sparsecc.simulate.choice import Choice, Recompute, objection
from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.memory import Memory, memory
from sparsecc.simulate.model import Model
from sparsecc.simulate.step import Outcome, simulate

MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL = (1, 2, 4)
RECOMPUTE: tuple[Recompute, ...] = ("none", "partial", "full")
MOST = 200_000
"""Combinations that are looked at; a description with more is refused."""


@dataclass(frozen=True)
class Found:
    """What a search saw.

    Attributes:
        outcomes: Of the choices that fit in memory, the fastest first.
        too_large: How many do not fit.
        smallest: The choice that needs the least memory, and how much that is.
    """

    outcomes: tuple[Outcome, ...]
    too_large: int
    smallest: tuple[Choice, Memory]


def search(model: Model, cluster: Cluster, given: Mapping[str, Any] | None = None) -> Found:
    """Simulate every choice, and sort those that fit by their time.

    Of the ways to recompute, the first one that fits is taken: it is the fastest.

    Args:
        model: What is trained.
        cluster: On what.
        given: Fields of :class:`Choice` that are given; the others are searched.

    Raises:
        SimulationError: No choice goes with the model, the cluster and what is given; or there are
            too many.
    """
    fitting: list[Choice] = []
    needs: list[tuple[Choice, Memory]] = []
    objections = Counter[str]()
    for options in _options(model, cluster, dict(given or {})):
        for choice in options:
            why = objection(choice, model, cluster)
            if why is not None:
                objections[why] += 1
                break
            needs.append((choice, memory(model, cluster, choice)))
            if needs[-1][1].total <= cluster.device.memory:
                fitting.append(choice)
                break
    if not needs:
        raise SimulationError(
            f"no way to spread {model.name} over {cluster.name}: {_often(objections)}",
            fix="give another batch or number of devices, or fewer of the degrees",
        )
    outcomes = [simulate(model, cluster, choice) for choice in fitting]
    return Found(
        outcomes=tuple(sorted(outcomes, key=lambda each: each.seconds)),
        too_large=len(needs) - len(fitting),
        smallest=min(needs, key=lambda need: need[1].total),
    )


def _often(objections: Counter[str]) -> str:
    return objections.most_common(1)[0][0] if objections else "there is none"


def _options(model: Model, cluster: Cluster, given: dict[str, Any]) -> Iterator[list[Choice]]:
    """Choices that differ in what they recompute alone, together."""
    devices = cluster.devices
    inside = min(devices, cluster.devices_per_node)
    space: dict[str, tuple[Any, ...]] = {
        "tensor": _divisors(inside),
        "pipeline": tuple(p for p in _divisors(devices) if p <= len(model.kinds())),
        "virtual": VIRTUAL,
        "expert": _divisors(model.experts),
        "micro_batch": MICRO_BATCHES,
        "exchange": ("flat", "hierarchical"),
        "sharded": (True,),
    }
    space |= {name: (value,) for name, value in given.items() if name != "recompute"}
    count = 1
    for values in space.values():
        count *= len(values)
    if count > MOST:
        raise SimulationError(
            f"there are {count} ways to spread {model.name}", fix="give some of the degrees"
        )
    recompute = (given["recompute"],) if "recompute" in given else RECOMPUTE
    for values in itertools.product(*space.values()):
        fields = dict(zip(space, values, strict=True))
        yield [Choice(**fields, recompute=each) for each in recompute]


def _divisors(number: int) -> tuple[int, ...]:
    return tuple(each for each in range(1, number + 1) if number % each == 0)


__all__ = ["Found", "search"]
