"""What ONNX Runtime takes for one dense layer, apart from what a session costs around it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc.backends.onnxruntime.run import session_options
from sparsecc.cost.shapes import Shape

OPSET, IR_VERSION = 17, 8
LAYERS = ("Conv", "FusedConv", "MatMul", "Gemm", "FusedMatMul")


def dense_times(
    shape: Shape, repeat: int, between: Callable[[], object] | None = None
) -> NDArray[np.float64]:
    """Times of the layer's own node, ms, to a microsecond.

    Args:
        shape: The layer.
        repeat: Runs.
        between: Called before every run.
    """
    model, feeds = _model(shape)
    with tempfile.TemporaryDirectory(prefix="sparsecc-dense-") as folder:
        options = session_options(1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(repeat + 1):
            if between is not None:
                between()
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    took = [
        event["dur"]
        for event in events
        if event.get("cat") == "Node"
        and event["name"].endswith("_kernel_time")
        and event["args"].get("op_name") in LAYERS
    ]
    return np.array(took[-repeat:], np.float64) * 1e-3


def _model(shape: Shape) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    work, kernel = shape.call.work, shape.kernel
    rng = np.random.default_rng(0)
    bias = np.zeros(work.rows, np.float32)
    if work.is_conv:
        channels = work.input_elements // shape.side**2
        sizes = [1, channels, shape.side, shape.side]
        weight = rng.standard_normal((work.rows, channels // work.groups, kernel, kernel))
        node = helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["y"],
            kernel_shape=[kernel] * 2,
            strides=[shape.stride] * 2,
            pads=[kernel // 2] * 4,
            group=work.groups,
        )
    else:
        sizes = [work.points, work.cols]
        weight = rng.standard_normal((work.cols, work.rows))
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    constants = {"w": weight.astype(np.float32), "b": bias}
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return model, {"x": rng.standard_normal(sizes).astype(np.float32)}
