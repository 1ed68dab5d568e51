"""Times that were measured, for a report to set beside its estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsecc.bench.result import BenchResult


@dataclass(frozen=True)
class LayerTime:
    """One layer alone, as a model of one node.

    Attributes:
        ms: Median time of one run with the artifact's library.
        dense_ms: The same without it: the weight's zeros are multiplied like any number.
    """

    ms: float
    dense_ms: float


@dataclass(frozen=True)
class Measured:
    """What was measured, on the machine at hand.

    Attributes:
        machine: Name of its processor.
        whole: The artifact against a dense model, side by side.
        layers: Times of layers, by name.
    """

    machine: str
    whole: BenchResult
    layers: Mapping[str, LayerTime]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "machine": self.machine,
            "whole": self.whole.to_json(),
            "layers": {name: dataclasses.asdict(time) for name, time in self.layers.items()},
        }


__all__ = ["LayerTime", "Measured"]
