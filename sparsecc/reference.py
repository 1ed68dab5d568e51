"""What an artifact without its model should compute: a few numbers of its twin's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import ModelError
from sparsecc.manifest import PortEntry, ReferenceEntry, StateEntry
from sparsecc.measure import LARGEST, Feed, Session, rounded, run_once
from sparsecc.quality.example_inputs import example_inputs

MOST_VALUES, DIGITS = 64, 6


def model_of(inputs: Sequence[PortEntry]) -> ir.Model:
    """A model of these inputs without any nodes: what questions about inputs are put to."""
    values = [
        ir.Value(
            name=port.name,
            type=ir.TensorType(ir.DataType.from_numpy(np.dtype(port.dtype))),
            shape=ir.Shape(port.dims),
        )
        for port in inputs
    ]
    return ir.Model(ir.Graph(values, [], nodes=[], name="inputs"), ir_version=10)


def feeds_for(inputs: Sequence[PortEntry], state: Sequence[StateEntry] = ()) -> Feed:
    """The inputs that a reference is made from, the same for the same ports: those of a first call.

    Raises:
        ModelError: An input cannot be made up.
    """
    first = {each.name: np.full(each.dims, each.begin, each.dtype) for each in state}
    return example_inputs(model_of(inputs)) | first


def reference(
    twin: Session,
    inputs: Sequence[PortEntry],
    outputs: Sequence[PortEntry],
    state: Sequence[StateEntry] = (),
) -> list[ReferenceEntry]:
    """What the twin computes from inputs that are made up; nothing where it refuses these."""
    try:
        results = run_once(twin, feeds_for(inputs, state))
    except ModelError:
        return []
    return [
        ReferenceEntry(
            name=port.name,
            shape=result.shape,
            scale=rounded(float(np.abs(_floats(result)).max(initial=0.0))),
            values=tuple(float(f"{value:.{DIGITS}g}") for value in _places(result).tolist()),
        )
        for port, result in zip(outputs, results, strict=True)
    ]


def distance(entry: ReferenceEntry, result: NDArray[Any]) -> float:
    """Largest difference from what it should be, relative to the largest magnitude."""
    places = _places(result)
    if result.shape != entry.shape or len(places) != len(entry.values):
        return float("inf")
    worst = float(np.abs(places - np.array(entry.values)).max(initial=0.0))
    return worst / entry.scale if entry.scale else worst


def _places(result: NDArray[Any]) -> NDArray[np.float64]:
    flat = _floats(result).reshape(-1)
    at = np.linspace(0, flat.size - 1, min(flat.size, MOST_VALUES)).round().astype(np.int64)
    return flat[at]


def _floats(result: NDArray[Any]) -> NDArray[np.float64]:
    floats = np.asarray(result, np.float64)
    return np.nan_to_num(floats, nan=0.0, posinf=LARGEST, neginf=-LARGEST)
