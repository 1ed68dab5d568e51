"""A model on its way through the compiler, and what pruning makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from sparsecc.manifest import NodeEntry
from sparsecc.passes.base import Context
from sparsecc.passes.weights.prune import LayerResult
from sparsecc.quality.calibration import Calibration
from sparsecc.request import Request
from sparsecc.search.allocation import Decision


@dataclasses.dataclass(frozen=True)
class Job:
    """A model on its way.

    Attributes:
        request: What the user asked for.
        ctx: Shared by all passes.
        graph: The dense model in canonical form; nothing changes it.
        identity: Hash of the model as it was captured.
        data: Calibration data, if there are any.
        before: Its nodes as they were captured, as the manifest lists them.
        dense_bytes: Bytes of its weights.
    """

    request: Request
    ctx: Context
    graph: ir.Model
    identity: str
    data: Calibration | None
    before: list[NodeEntry]
    dense_bytes: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model with its weights as they will be.

    Attributes:
        graph: The model, still in canonical form.
        decisions: Layer name → what was decided.
        results: Layer name → what became of it.
        source: What a plan says besides its layers: where they come from.
        options: Layer name → what was weighed, as the plan's layers say it.
    """

    graph: ir.Model
    decisions: Mapping[str, Decision]
    results: Mapping[str, LayerResult]
    source: Mapping[str, Any]
    options: Mapping[str, Any]


__all__ = ["Job", "Outcome"]
