"""How much a model minds an error of one layer, which is changed alone for that."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.passes.weights.candidates import Probe
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.prune import put
from sparsecc.quality.exam import Exam

_LEAST = 1e-12


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


__all__ = ["sensitivity"]
