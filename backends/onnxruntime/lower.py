"""The last step before ONNX Runtime: portable bodies in, compiler's notes out."""

from __future__ import annotations

import onnx_ir as ir

import sparsecc
from sparsecc import ops

MAX_IR_VERSION = 10
"""Newest ONNX IR version that onnxruntime 1.20 reads."""
MIN_IR_VERSION = 8
"""Oldest ONNX IR version with model-local functions."""


def lower(model: ir.Model) -> None:
    """Make a rewritten model ready to be written, in place.

    Every op of the ``sparsecc`` domain gets its body, notes of the exporters (stack traces with
    the user's paths) are removed, and the IR version becomes one that old runtimes read.
    """
    ops.attach_functions(model)
    _strip_notes(model)
    model.producer_name = "sparsecc"
    model.producer_version = sparsecc.__version__
    if model.opset_imports.get("", 0) <= 22:
        model.ir_version = min(max(model.ir_version, MIN_IR_VERSION), MAX_IR_VERSION)


def _strip_notes(model: ir.Model) -> None:
    model.metadata_props.clear()
    functions = [function.graph for function in model.functions.values()]
    for graph in (*model.graphs(), *functions):
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
