"""Seconds of what devices send each other.

Ideal times are of rings and pairs: n − 1 messages, and the bytes that pass the link of one device.
What is achieved of that rate is in the cluster's description.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.simulate.cluster import Cluster, Collective, Link
from sparsecc.simulate.model import Model


@dataclass(frozen=True)
class Group:
    """Devices that take part in a collective.

    Attributes:
        size: How many.
        nodes: In how many nodes they are, equally many in each.
    """

    size: int
    nodes: int = 1

    @property
    def per_node(self) -> float:
        """How many are in each node."""
        return self.size / self.nodes


def group(cluster: Cluster, size: int, spacing: int = 1) -> Group:
    """The devices 0, spacing, 2 · spacing …, so many of them."""
    return Group(size, min(size, math.ceil(size * spacing / cluster.devices_per_node)))


def all_gather(cluster: Cluster, group: Group, size: float) -> float:
    """Every device ends with all parts, ``size`` bytes together."""
    return _scattered(cluster, group, size, "all_gather")


def reduce_scatter(cluster: Cluster, group: Group, size: float) -> float:
    """Every device ends with its part of a sum of ``size`` bytes."""
    return _scattered(cluster, group, size, "reduce_scatter")


def all_reduce(cluster: Cluster, group: Group, size: float) -> float:
    """Every device ends with a sum of ``size`` bytes: in one ring, or inside of nodes first."""
    flat = _ring(_slowest(cluster, group), group.size, size, "all_reduce", rounds=2)
    if group.nodes == 1 or group.per_node < 2:
        return flat
    inside = Group(int(group.per_node))
    there = reduce_scatter(cluster, inside, size) + all_gather(cluster, inside, size)
    across = _ring(cluster.between, group.nodes, size / group.per_node, "all_reduce", rounds=2)
    return min(flat, there + across)


def all_to_all(cluster: Cluster, group: Group, size: float) -> float:
    """Every device sends ``size`` bytes, an equal part to each one and to itself.

    What goes inside of the node and what goes between nodes take different links at once.
    """
    if group.size == 1:
        return 0.0
    part = size / group.size
    inside = _pairs(cluster.inside, group.size, group.per_node - 1, part)
    between = _pairs(cluster.between, group.size, group.size - group.per_node, part)
    return max(inside, between)


def point_to_point(cluster: Cluster, size: float, *, between_nodes: bool) -> float:
    """One device sends ``size`` bytes to another."""
    link = cluster.between if between_nodes else cluster.inside
    rate = link.bandwidth * link.share("point_to_point", 2, size)
    return link.latency + size / rate


def expert_exchange(
    cluster: Cluster,
    model: Model,
    members: Group,
    tokens: float,
    uneven: float,
    *,
    hierarchical: bool,
) -> float:
    """Seconds until tokens are where their experts are; back takes as long.

    Flat, every device sends each token to ``top_k`` experts. Hierarchically (arXiv 2505.04519,
    section 4.2), nodes first gather each other's tokens, once each, over the links between them,
    and the copies for experts are then sent inside of the node.

    Args:
        cluster: Its links.
        model: Says the sizes.
        members: Devices that have the experts.
        tokens: Of one device.
        uneven: Largest over mean load of a device.
        hierarchical: Which way.
    """
    if members.size == 1:
        return 0.0
    token = model.d * model.item_bytes
    copies = tokens * model.top_k * token * uneven
    if not hierarchical:
        return all_to_all(cluster, members, copies)
    across = all_gather(
        cluster, Group(members.nodes, members.nodes), members.nodes * tokens * token
    )
    return across + all_to_all(cluster, Group(int(members.per_node)), copies)


def _slowest(cluster: Cluster, group: Group) -> Link:
    return cluster.between if group.nodes > 1 else cluster.inside


def _ring(link: Link, devices: int, size: float, what: Collective, rounds: int = 1) -> float:
    if devices == 1 or size <= 0:
        return 0.0
    steps = rounds * (devices - 1)
    rate = link.bandwidth * link.share(what, devices, size)
    return steps * link.latency + steps * size / devices / rate


def _scattered(cluster: Cluster, group: Group, size: float, what: Collective) -> float:
    flat = _ring(_slowest(cluster, group), group.size, size, what)
    if group.nodes == 1 or group.per_node < 2:
        return flat
    # Between nodes each device moves its own part, then nodes pass it on inside.
    across = _ring(cluster.between, group.nodes, size / group.per_node, what)
    return min(flat, across + _ring(cluster.inside, int(group.per_node), size, what))


def _pairs(link: Link, devices: int, others: float, part: float) -> float:
    if others <= 0:
        return 0.0
    rate = link.bandwidth * link.share("all_to_all", devices, part * devices)
    return others * link.latency + others * part / rate


__all__ = [
    "Group",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "expert_exchange",
    "group",
    "point_to_point",
    "reduce_scatter",
]
