"""Smallest and largest number of activations over calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.errors import CalibrationError
from sparsecc.passes import edit
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.segments import open_segment, schedule

_PRODUCTS = ("MatMul", "Gemm")
Range = tuple[float, float]
"""Smallest and largest number, zero included."""


def value_ranges(
    model: ir.Model, names: Sequence[str], calibration: Calibration
) -> dict[str, Range]:
    """The range of each named value over all training batches.

    Args:
        model: The model; it is not changed.
        names: Names of floating-point values of its main graph.
        calibration: The batches.

    Raises:
        CalibrationError: The model does not run on a batch, or a value is not finite.
    """
    if not names:
        return {}
    observed = model.clone()
    ends = _observe(observed, names)
    plan = schedule(observed, [(node.outputs[0], node) for node in ends])
    nodes = [*plan.nodes, *(node for node in ends if node not in plan.nodes)]
    low, high = np.full(len(names), 0.0), np.full(len(names), 0.0)
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
        outputs = [node.outputs[0].name or "" for node in ends]
        first = calibration.train[0]
        session = open_segment(plan, nodes, first, outputs, Path(folder))
        for number, feed in enumerate(calibration.train):
            try:
                found = np.array(session.run(outputs, feed), np.float64).reshape(2, len(names))
            except Exception as error:
                raise CalibrationError(
                    f"the model does not run on calibration batch {number}: {error}",
                    fix="check the model on that batch",
                ) from error
            if not np.isfinite(found).all():
                at = int(np.flatnonzero(~np.isfinite(found).all(axis=0))[0])
                raise CalibrationError(
                    f"calibration batch {number} makes an activation NaN or infinite",
                    node=names[at],
                    fix="leave that batch out, or check the model on it",
                )
            low, high = np.minimum(low, found[0]), np.maximum(high, found[1])
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def largest_numbers(model: ir.Model, calibration: Calibration) -> dict[str, float]:
    """Largest magnitudes of what products and ops of ours read and write.

    Args:
        model: The model; it is not changed.
        calibration: The batches.

    Returns:
        By the name of a value, and by the name of the node that writes it.

    Raises:
        CalibrationError: As :func:`value_ranges`.
    """
    nodes = [each for each in model.graph if each.op_type in _PRODUCTS or ops.is_ours(each)]
    values = {
        str(value.name): value
        for node in nodes
        for value in (*node.inputs, node.outputs[0])
        if value is not None and value.dtype == ir.DataType.FLOAT and edit.constant(value) is None
    }
    largest = {
        name: max(-low, high)
        for name, (low, high) in value_ranges(model, list(values), calibration).items()
    }
    for node in nodes:
        written = largest.get(str(node.outputs[0].name), 0.0)
        largest[str(node.name)] = max(written, largest.get(str(node.name), 0.0))
    return largest


def _observe(model: ir.Model, names: Sequence[str]) -> list[ir.Node]:
    """Nodes at the end of the graph: the least of every value, then the largest of every value."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    values |= {value.name: value for value in model.graph.inputs}
    ends = []
    for op_type in ("ReduceMin", "ReduceMax"):
        for name in names:
            attributes = [ir.AttrInt64("keepdims", 0)]
            node = ir.Node("", op_type, [values[name]], attributes, name=f"{name}/{op_type}")
            node.outputs[0].name = f"{name}/{op_type}"
            ends.append(node)
    model.graph.extend(ends)
    return ends
