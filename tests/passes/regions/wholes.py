"""Whole models as one region, run by the library through ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsecc import ops, targets
from sparsecc.backends.bundle.whole import Port, Whole
from sparsecc.capture import capture
from sparsecc.inspection import rewrite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.whole import whole_of
from sparsecc.report.rows import LayerRow

Feeds = Mapping[str, NDArray[Any]]
ALONE = dataclasses.replace(targets.TARGETS["x86-64"], backend="bundle")


def made(model: Any) -> tuple[Whole, list[LayerRow], Context]:
    """A model as one region, its layers, and why nodes have no step."""
    graph, ctx = capture(model), Context(target=ALONE, verify=True)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    rows = rewrite(graph, ALONE, ctx)
    return whole_of(graph, ALONE, ctx), rows, ctx


def session(whole: Whole, library: Path) -> ort.InferenceSession:
    """A model whose one node is the region."""
    arrays = {"program": whole.program.encode(), "names": whole.program.names(), **whole.constants}
    read = ["program", "names", *whole.program.inputs, *whole.program.constants]
    node = helper.make_node("Region0", read, whole.program.outputs, "whole", domain=ops.DOMAIN)
    graph = helper.make_graph(
        [node],
        "whole",
        list(map(_info, whole.inputs)),
        list(map(_info, whole.outputs)),
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(proto.SerializeToString(), options)


def error(whole: Whole, library: Path, model: onnx.ModelProto, *feeds: Feeds) -> float:
    """Largest difference from the model in ONNX Runtime, relative to its largest output."""
    ours = session(whole, library)
    theirs = ort.InferenceSession(model.SerializeToString())
    worst = 0.0
    for each in feeds:
        pairs = zip(ours.run(None, dict(each)), theirs.run(None, dict(each)), strict=True)
        for got, want in pairs:
            assert got.shape == want.shape
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    return worst


def _info(port: Port) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(port.name, kind, port.dims)
