"""How much a model minds an error of one layer, which is changed alone for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.passes.weights.candidates import Probe
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.prune import put
from sparsecc.progress import Progress
from sparsecc.quality.exam import Exam

SENSITIVITY_BATCHES = 2
"""Batches of an exam that say how much the model minds an error of one layer."""
_LEAST = 1e-12


def sensitivities(
    graph: ir.Model, probes: Mapping[str, Probe], exam: Exam, progress: Progress
) -> dict[str, float]:
    """Layer name → its :func:`sensitivity`, on the first batches of an exam."""
    few = dataclasses.replace(exam, feeds=exam.feeds[:SENSITIVITY_BATCHES])
    found = {}
    for done, (name, probe) in enumerate(probes.items()):
        progress(f"how much the model minds {name}", done / len(probes))
        found[name] = sensitivity(graph, name, probe, few)
    return found


def sensitivity(graph: ir.Model, name: str, probe: Probe, exam: Exam) -> float:
    """Distance of the model's outputs from the dense ones for each unit of the layer's own loss.

    Args:
        graph: The dense model; it is not changed.
        name: The layer.
        probe: What it is changed to.
        exam: A few batches.
    """
    model = graph.clone()
    layer = next(each for each in find_layers(model).layers if each.name == name)
    put(layer, probe.weight, probe.shift)
    distance = exam.grade(session_of_model(model)).distance
    return max(distance, _LEAST) / max(probe.loss, _LEAST)


__all__ = ["sensitivities", "sensitivity"]
