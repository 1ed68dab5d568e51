"""The time of a training step, composed of its operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsecc.errors import SimulationError
from sparsecc.simulate import collectives as net
from sparsecc.simulate.choice import Choice, Stage, objection, stages
from sparsecc.simulate.cluster import Cluster, Traffic
from sparsecc.simulate.costs import streaming
from sparsecc.simulate.layer import Layers, Pass
from sparsecc.simulate.memory import (
    GRADIENT_BYTES,
    Memory,
    memory,
    stage_parameters,
    state_bytes,
)
from sparsecc.simulate.model import Model, flops_per_token


@dataclass(frozen=True)
class Part:
    """What the time of a step goes to.

    Attributes:
        words: What it is.
        computes: Whether a device computes then; otherwise it sends or waits.
    """

    words: str
    computes: bool = True


PARTS = {
    "products": Part("matrix products"),
    "attention": Part("attention"),
    "experts": Part("experts, evenly loaded"),
    "imbalance": Part("the heaviest experts"),
    "streaming": Part("norms, activations, routing"),
    "recomputation": Part("recomputation"),
    "sharing": Part("devices that share cores"),
    "optimizer": Part("optimizer"),
    "tensor": Part("tensor-parallel exchange", computes=False),
    "expert": Part("tokens to experts and back", computes=False),
    "pipeline": Part("from stage to stage", computes=False),
    "data": Part("gradients and weights", computes=False),
    "bubble": Part("waiting for other stages", computes=False),
}
"""Parts of a step, in the order in which they are shown."""


@dataclass(frozen=True)
class Outcome:
    """What a choice comes to.

    Attributes:
        choice: It.
        data: Data-parallel groups.
        micro_batches: Of a step, for each of them.
        parts: Seconds of a step by :data:`PARTS`, for the slowest stage.
        memory: Of the device that needs the most.
        fits: Whether that is there.
        tokens_per_s: Of the whole cluster.
        mfu: Share of the cluster's peak that the model's own FLOPs are.
    """

    choice: Choice
    data: int
    micro_batches: int
    parts: Mapping[str, float]
    memory: Memory
    fits: bool
    tokens_per_s: float
    mfu: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.parts.values())


def simulate(model: Model, cluster: Cluster, choice: Choice) -> Outcome:
    """What a step takes.

    Raises:
        SimulationError: The choice does not go with the model and the cluster.
    """
    if why := objection(choice, model, cluster) or _no_peak(model, cluster):
        raise SimulationError(f"{choice} on {cluster.name}: {why}", fix="choose other degrees")
    each = Layers(model, cluster, choice)
    worked = [_worked(each, stage) for stage in stages(model, choice)]
    parts = _pipelined(cluster, choice, choice.micro_batches(model, cluster), worked)
    ends = [_end(model, cluster, choice, stage) for stage in stages(model, choice)]
    slowest: dict[str, float] = max(ends, key=_seconds)
    parts |= slowest
    needed = memory(model, cluster, choice)
    rate = model.batch * model.sequence / sum(parts.values())
    return Outcome(
        choice=choice,
        data=choice.data(cluster),
        micro_batches=choice.micro_batches(model, cluster),
        parts={name: parts[name] for name in PARTS if parts.get(name)},
        memory=needed,
        fits=needed.total <= cluster.device.memory,
        tokens_per_s=rate,
        mfu=rate * flops_per_token(model) / (cluster.device.peak[model.dtype] * cluster.devices),
    )


def _no_peak(model: Model, cluster: Cluster) -> str | None:
    if model.dtype in cluster.device.peak:
        return None
    return f"its device has no peak for {model.dtype}, only for {', '.join(cluster.device.peak)}"


def _worked(each: Layers, stage: Stage) -> dict[str, float]:
    """Seconds of one micro-batch in a stage, forward and backward, by part."""
    passes = [(one, n) for kind, n in stage.kinds() for one in each.layer(kind)]
    passes += [(one, 1) for one in each.ends(stage)]
    total: dict[str, float] = {}
    for one, times in passes:
        for name, seconds in exposed(one, each.cluster.overlap).items():
            total[name] = total.get(name, 0.0) + times * seconds
    return total


def _seconds(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def exposed(one: Pass, overlap: Mapping[Traffic, float]) -> dict[str, float]:
    """A pass by part, without what is sent while it computes.

    Of each kind of traffic the share that the software can hide is hidden, as long as there is
    something to compute at the same time.
    """
    budget = sum(one.compute.values())
    parts = dict(one.compute)
    for traffic, seconds in one.sent.items():
        hidden = min(budget, seconds * overlap.get(traffic, 0.0))
        budget -= hidden
        parts[traffic] = parts.get(traffic, 0.0) + seconds - hidden
    return parts


def _pipelined(
    cluster: Cluster, choice: Choice, rounds: int, worked: list[dict[str, float]]
) -> dict[str, float]:
    """All micro-batches through all stages, by part of the slowest stage.

    1F1B: the slowest stage is busy for every micro-batch, and waits while the first one comes to it
    and the last one leaves; with v parts of each stage, for 1 / v of that (arXiv 2104.04473).
    """
    slowest = max(worked, key=_seconds)
    parts = {name: rounds * seconds for name, seconds in slowest.items()}
    times = [_seconds(each) for each in worked]
    parts["bubble"] = (sum(times) - max(times)) / choice.virtual
    if cluster.together:
        parts["sharing"] = _shared(cluster, rounds, worked, parts)
    return parts


def _shared(
    cluster: Cluster, rounds: int, worked: list[dict[str, float]], parts: Mapping[str, float]
) -> float:
    """Seconds more where devices share cores: those that wait leave theirs to the others."""
    computing = [
        sum(seconds for name, seconds in each.items() if PARTS[name].computes) for each in worked
    ]
    busy = cluster.devices * rounds * sum(computing) / len(worked) / _seconds(parts)
    slowed = rounds * max(computing) + parts["bubble"]
    return slowed * (1 / cluster.speed_of_each(max(busy, 1.0)) - 1)


def _end(model: Model, cluster: Cluster, choice: Choice, stage: Stage) -> dict[str, float]:
    """After the last micro-batch: gradients and weights between devices, and the update."""
    spread, rest = stage_parameters(model, choice, stage)
    data, expert = choice.data(cluster), choice.expert
    sent = sum(
        _reduced(model, cluster, choice, numbers, net.group(cluster, size, spacing))
        for numbers, size, spacing in (
            (rest, data, choice.tensor),
            (spread, data // expert, choice.tensor * expert),
        )
    )
    own = spread / (data // expert) + rest / data if choice.sharded else spread + rest
    # Reads the gradient and reads and writes its state; writes the weights as products read them.
    moved = GRADIENT_BYTES + 2 * state_bytes(model) + model.item_bytes
    moved += model.item_bytes if model.item_bytes == 4 else 0
    return {
        "data": sent * (1 - cluster.overlap.get("data", 0.0)),
        "optimizer": streaming(cluster.device, own * moved)
        / cluster.speed_of_each(cluster.devices),
    }


def _reduced(
    model: Model, cluster: Cluster, choice: Choice, numbers: float, group: net.Group
) -> float:
    if not choice.sharded:
        return net.all_reduce(cluster, group, numbers * GRADIENT_BYTES)
    summed = net.reduce_scatter(cluster, group, numbers * GRADIENT_BYTES)
    return summed + net.all_gather(cluster, group, numbers * model.item_bytes)


__all__ = ["PARTS", "Outcome", "exposed", "simulate"]
