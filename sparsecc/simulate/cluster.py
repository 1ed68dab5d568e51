"""The hardware: devices in nodes, the links between them, and what is achieved of both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from sparsecc.simulate.described import (
    Count,
    Curve,
    Described,
    Positive,
    Seconds,
    Share,
    along,
    file_kind,
    read,
    rising,
)

Operator = Literal["matrix", "experts", "attention", "attention_backward"]
Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "point_to_point"]
Traffic = Literal["tensor", "expert", "pipeline", "data"]

_Rising = Annotated[Curve, pydantic.AfterValidator(rising)]
_Row = tuple[Annotated[int, pydantic.Field(ge=2, le=10**6)], _Rising]
_Table = Annotated[tuple[_Row, ...], pydantic.Field(min_length=1, max_length=16)]


class Speed(Described):
    """What a kind of operator achieves of the peak: tiles, short sums, and the rest by size.

    Attributes:
        start: Seconds before anything is computed; of every expert, in the case of experts.
        rows: Rows of a tile; products are rounded up to whole tiles.
        columns: Columns of a tile.
        half_depth: Length of the sums at which half of the best rate is reached.
        achieved: Share of the peak by FLOPs of the product.
    """

    start: Seconds = 0.0
    rows: Count = 1
    columns: Count = 1
    half_depth: Annotated[float, pydantic.Field(ge=0, le=1e6)] = 0.0
    achieved: _Rising = ((1.0, 1.0),)


class Device(Described):
    """One accelerator, or one process on a machine whose cores are shared.

    Attributes:
        peak: FLOP/s by data type.
        memory: Bytes.
        bandwidth: Bytes a second from and to that memory.
        streamed: Share of the bandwidth that is achieved, by bytes.
        start: Seconds before an operator that only streams does so.
        speeds: What operators achieve; those not named achieve the peak.
    """

    peak: Annotated[dict[str, Positive], pydantic.Field(min_length=1, max_length=16)]
    memory: Positive
    bandwidth: Positive
    streamed: _Rising = ((1.0, 1.0),)
    start: Seconds = 0.0
    speeds: dict[Operator, Speed] = pydantic.Field(default_factory=dict)

    def speed(self, operator: Operator) -> Speed:
        """What a kind of operator achieves."""
        return self.speeds.get(operator, _IDEAL)


class Link(Described):
    """What connects a device with others, in each direction.

    Attributes:
        bandwidth: Bytes a second of one device.
        latency: Seconds of one message.
        achieved: By collective: for numbers of devices, the share of the ideal rate by bytes.
    """

    bandwidth: Positive
    latency: Seconds
    achieved: dict[Collective, _Table] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Link:
        for rows in self.achieved.values():
            rising([(count,) for count, _ in rows])
        return self

    def share(self, collective: Collective, devices: int, size: float) -> float:
        """The share of the ideal rate: between measured numbers of devices linear in their log."""
        rows = self.achieved.get(collective)
        if rows is None:
            return 1.0
        return along([(float(count), along(curve, size)) for count, curve in rows], devices)


class Cluster(Described):
    """Nodes of devices.

    Attributes:
        name: What tables call it.
        nodes: How many.
        devices_per_node: How many in each.
        device: All of one kind.
        inside: The link between the devices of a node.
        between: The link between nodes.
        together: Where devices share cores: for so many that compute, how many they are worth.
            Without it each has its own.
        overlap: By what is sent, the share that the software can send while it computes.
        placed_by_load: Whether experts are placed by their load; otherwise in their order.
    """

    name: Annotated[str, pydantic.Field(min_length=1, max_length=100)]
    nodes: Count
    devices_per_node: Annotated[int, pydantic.Field(ge=1, le=4096)]
    device: Device
    inside: Link
    between: Link
    together: Annotated[tuple[tuple[Positive, Positive], ...], pydantic.Field(max_length=64)] = ()
    overlap: dict[Traffic, Share] = pydantic.Field(default_factory=dict)
    placed_by_load: bool = False

    @pydantic.model_validator(mode="after")
    def _check(self) -> Cluster:
        rising(self.together)
        if any(worth > count for count, worth in self.together):
            raise ValueError("together: devices are worth no more than their number")
        return self

    @property
    def devices(self) -> int:
        """All of them."""
        return self.nodes * self.devices_per_node

    def speed_of_each(self, busy: float) -> float:
        """How fast each of so many devices computes that do so at once; 1 is alone."""
        if not self.together or busy <= 1:
            return 1.0
        curve = ((1.0, 1.0), *(point for point in self.together if point[0] > 1))
        return min(1.0, along(curve, busy) / busy)


_IDEAL = Speed()
CLUSTER_FILE = file_kind("cluster description", Cluster)


def read_cluster(path: Path) -> Cluster:
    """Read the description of a cluster.

    Raises:
        SimulationError: It cannot be read, or something in it is wrong.
    """
    return read(CLUSTER_FILE, path)


def rounded(count: float, tile: int) -> float:
    """A count of rows or columns, up to whole tiles."""
    return math.ceil(count / tile) * tile


__all__ = [
    "CLUSTER_FILE",
    "Cluster",
    "Collective",
    "Device",
    "Link",
    "Operator",
    "Speed",
    "Traffic",
    "read_cluster",
    "rounded",
]
