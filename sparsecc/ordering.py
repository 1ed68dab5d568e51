"""Putting the channels of a model in order before it is pruned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import onnx_ir as ir

from sparsecc.formats.patterns import SparsitySpec
from sparsecc.job import Job
from sparsecc.passes.permute.permute import permute_model
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.prune import LayerResult, detect_layers
from sparsecc.progress import Progress, counted, part
from sparsecc.search.allocation import Decision, allocate
from sparsecc.search.plan import Choice

Said = TypeVar("Said", LayerResult, Decision)

FOR_CHOICES = "choices"
"""What a plan says channels were put in order for, where that is what its layers say."""
FOR_SEARCH = "4x1:0.5"
"""What channels are put in order for before a search, which does not know its choices yet."""
SHARE = 0.2
"""Share of the progress that looking for an order is."""


def in_order(
    job: Job, choices: Mapping[str, Choice], permuted: str, seed: int, progress: Progress
) -> tuple[Job, dict[str, str], Progress]:
    """The job with the channels of its dense model in a better order; the model computes the same.

    Args:
        job: Its context is told of layers that gain nothing.
        choices: Layer name → what will be done to it.
        permuted: What channels are put in order for, as plans say it; "" leaves them alone.
        seed: Of the search.
        progress: Told what is being done.

    Returns:
        The job, layer name → what that changed, in words, and the progress of what follows.

    Raises:
        PlanError: What channels are to be put in order for cannot be read.
    """
    if not permuted:
        return job, {}, progress
    graph, told = job.graph.clone(), counted(part(progress, 0.0, SHARE))
    if permuted != FOR_CHOICES:
        choices = _uniform(graph, SparsitySpec.parse(permuted))
    found = permute_model(graph, choices, job.data, job.ctx, seed=seed, on_progress=told)
    notes = {name: str(each) for name, each in found.items()}
    return dataclasses.replace(job, graph=graph), notes, part(progress, SHARE, 1.0)


def with_notes(
    results: Mapping[str, Said], notes: Mapping[str, str], *, first: bool = False
) -> dict[str, Said]:
    """Results, or decisions, whose reasons also say what is noted, last or first."""

    def said(name: str, reason: str) -> str:
        parts = (notes.get(name, ""), reason) if first else (reason, notes.get(name, ""))
        return "; ".join(filter(None, parts))

    return {
        name: dataclasses.replace(each, reason=said(name, each.reason))
        for name, each in results.items()
    }


def _uniform(graph: ir.Model, spec: SparsitySpec) -> dict[str, Choice]:
    """The same for all layers that allow it; zeros that are there already stay where they are."""
    layers = find_layers(graph).layers
    there = allocate(layers, SparsitySpec(None, 0.0), detected=detect_layers(layers))
    wanted = allocate(layers, spec, method="magnitude")
    return {
        layer.name: (there if there[layer.name].choice.sparsity else wanted)[layer.name].choice
        for layer in layers
    }


__all__ = ["FOR_CHOICES", "FOR_SEARCH", "in_order", "with_notes"]
