"""OpenVINO: reads ONNX files directly."""

from __future__ import annotations

import numpy as np
import openvino as ov


def open_side(job, feeds):
    """A compiled model with one stream; float32, as everyone else's arithmetic."""
    core = ov.Core()
    model = core.read_model(job["model"])
    model.reshape({name: list(value.shape) for name, value in feeds.items()})
    properties = {
        "INFERENCE_NUM_THREADS": job["threads"],
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        **job["settings"].get("properties", {}),
    }
    request = core.compile_model(model, "CPU", properties).create_infer_request()
    for name, value in feeds.items():
        request.set_tensor(name, ov.Tensor(value))
    return request.infer, lambda _: {"output": np.array(request.get_output_tensor().data)}
