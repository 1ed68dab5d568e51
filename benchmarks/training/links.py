"""What processes on one machine send each other, measured and described as links."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import least_squares

from benchmarks.training import mesh as net
from benchmarks.training.timing import seconds, seconds_together
from sparsecc.simulate import Cluster
from sparsecc.simulate import collectives as sim
from sparsecc.simulate.cluster import Device

MACHINE = "processes on shared cores"
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "point_to_point")
LARGEST, RUNS = 6e6, 8
BANDWIDTH = 2e10
"""Bytes a second that no collective here reaches: shares say what it does."""


@dataclass(frozen=True)
class Sent:
    """A collective of some size.

    Attributes:
        kind: Which.
        devices: How many take part.
        size: Bytes, as the simulator counts them.
        seconds: As measured.
    """

    kind: str
    devices: int
    size: float
    seconds: float


def described(
    device: Device,
    processes: int,
    *,
    latency: float = 0.0,
    achieved: dict[str, Any] | None = None,
    together: Sequence[tuple[float, float]] = (),
) -> Cluster:
    """The machine as a cluster of one node."""
    link = {"bandwidth": BANDWIDTH, "latency": latency, "achieved": achieved or {}}
    return Cluster.model_validate(
        {
            "name": MACHINE,
            "nodes": 1,
            "devices_per_node": processes,
            "device": device.model_dump(),
            "inside": link,
            "between": link,
            "together": list(together),
        },
        strict=False,
    )


def predicted(cluster: Cluster, sent: Sent) -> float:
    """What the simulator says."""
    if sent.kind == "point_to_point":
        return sim.point_to_point(cluster, sent.size, between_nodes=False)
    collective = getattr(sim, sent.kind)
    return float(collective(cluster, sim.Group(sent.devices), sent.size))


def measure(sizes: Sequence[int]) -> tuple[float, list[Sent]]:
    """What a process computes and sends while all others do the same; run in each of them.

    Returns:
        Seconds of some computing, and of every collective with so many bytes: among all processes,
        and among halves of them at once.
    """
    count, found = dist.get_world_size(), []
    for members in (each for each in (2, 4) if each <= count):
        groups = [
            dist.new_group(list(range(first, first + members)))
            for first in range(0, count, members)
        ]
        group = groups[dist.get_rank() // members]
        for size in sizes:
            numbers = max(1, size // 4 // members) * members
            # Only gradients are that large.
            for kind in KINDS if size <= LARGEST else KINDS[:1]:
                call = _call(kind, numbers, members, group)
                runs = max(1, min(RUNS, int(4e6 / size)))
                time = seconds_together(call, runs, rounds=9) / (
                    2 if kind == "point_to_point" else 1
                )
                found.append(Sent(kind, members, 4.0 * numbers, time))
    return _work(), found


def _call(kind: str, numbers: int, count: int, group: Any) -> Callable[[], object]:
    whole, part = torch.randn(numbers), torch.randn(numbers // count)
    even, rank = [numbers // count] * count, dist.get_rank()

    def there_and_back() -> None:
        """Half of the processes send to the others, which send back: two messages."""
        peer = rank ^ 1
        if rank % 2:
            dist.recv(whole, peer)
            dist.send(whole, peer)
        else:
            dist.send(whole, peer)
            dist.recv(whole, peer)

    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "all_gather": lambda: net.all_gather(part, group),
        "reduce_scatter": lambda: net.reduce_scatter(whole, group),
        "all_to_all": lambda: net.all_to_all(whole, even, even, group),
        "point_to_point": there_and_back,
    }
    return calls[kind]


def _work() -> float:
    """Seconds of computing while all other processes do the same."""
    first, second = torch.randn(256, 256), torch.randn(256, 768)
    wide = torch.randn(512, 768)

    def call() -> None:
        for _ in range(20):
            first @ second
            torch.nn.functional.silu(wide) * wide

    dist.barrier()
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:  # until all have begun
        call()
    return seconds(call, budget=1.0)


def curves(found: Sequence[Sent]) -> tuple[float, dict[str, Any]]:
    """The latency of one message and the shares of the bandwidth, from what was measured.

    Times of a collective are fitted as a wait and a rate: single ones depend on whom the system
    lets run, where processes share cores.
    """
    if not found:
        return 0.0, {}
    latency = 0.5 * min(each.seconds / _messages(each) for each in found)
    table: dict[str, list[Any]] = {}
    for kind, devices in sorted({(each.kind, each.devices) for each in found}):
        own = [each for each in found if (each.kind, each.devices) == (kind, devices)]
        wait, rate = _line(own)
        curve = [(each.size, _share(each, wait + each.size / rate, latency)) for each in own]
        table.setdefault(kind, []).append([devices, sorted(curve)])
    return latency, table


def _line(found: Sequence[Sent]) -> tuple[float, float]:
    """Seconds to wait and bytes a second that are closest to what was measured."""
    sizes = np.array([each.size for each in found])
    times = np.array([each.seconds for each in found])

    def off(values: Any) -> Any:
        return np.log((np.exp(values[0]) + sizes / np.exp(values[1])) / times)

    first = [np.log(times.min()), np.log(sizes.max() / times.max())]
    values = least_squares(off, first, loss="soft_l1", f_scale=0.2).x
    return float(np.exp(values[0])), float(np.exp(values[1]))


def _messages(sent: Sent) -> int:
    """How many a device sends one after the other, as the simulator counts them."""
    rounds = {"all_reduce": 2 * (sent.devices - 1), "point_to_point": 1}
    return rounds.get(sent.kind, sent.devices - 1)


def _share(sent: Sent, time: float, latency: float) -> float:
    part = sent.size if sent.kind == "point_to_point" else sent.size / sent.devices
    ideal = _messages(sent) * part / BANDWIDTH
    return min(1.0, ideal / max(time - _messages(sent) * latency, ideal))


def spaced(low: float, high: float, count: int) -> list[int]:
    """Sizes at even distances of their logarithm."""
    step = math.log(high / low) / (count - 1)
    return [round(low * math.exp(step * index)) for index in range(count)]
