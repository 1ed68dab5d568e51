"""MNN: a format of its own, in which the converter marks sparse convolutions."""

from __future__ import annotations

import json
import os
import sys
import tempfile

import numpy as np

LAYOUT = "Tensor_DimensionType_Caffe"


def open_side(job, feeds):
    """A session over a converted model."""
    import MNN

    interpreter = MNN.Interpreter(job["model"])
    config = {"backend": "CPU", "numThread": job["threads"], "precision": "high"}
    session = interpreter.createSession(config)
    layout = getattr(MNN, LAYOUT)
    for name, tensor in interpreter.getSessionInputAll(session).items():
        value = feeds[name]
        whole = value.dtype.kind in "iu"
        kind, value = (
            (MNN.Halide_Type_Int, value.astype(np.int32))
            if whole
            else (MNN.Halide_Type_Float, value)
        )
        tensor.copyFrom(MNN.Tensor(value.shape, kind, value, layout))
    result = interpreter.getSessionOutput(session)

    def read(_):
        shape = result.getShape()
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), layout)
        result.copyToHostTensor(host)
        return {"output": np.array(host.getData(), np.float32).reshape(shape)}

    return lambda: interpreter.runSession(session), read


def convert(source, result, options):
    """Calls the converter inside the package; the program around it installs things of its own."""
    import _tools

    command = ["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", result]
    command += ["--bizCode", "benchmark"]
    with tempfile.TemporaryDirectory() as folder:
        if options.get("block"):
            command.append("--detectSparseSpeedUp")
        if options.get("block", 1) > 1:
            description = os.path.join(folder, "zeros.bin")
            with open(description, "wb") as file:
                file.write(pipeline(options["block"]))
            command += ["--compressionParamsFile", description]
        _tools.mnnconvert(command)


def pipeline(block):
    """`MNN.Compression.Pipeline`, serialised: pruned, so many output channels share a zero.

    {version: "0.0.0", algo: {type: PRUNE, prune_params: {type: SIMD_OC, simd_oc_pruner_params:
    {oc_blocks: block}}}}, after MNN's MNN_compression.proto.
    """
    blocks = bytes([0x20, block])
    params = bytes([0x08, 1, 0x1A, len(blocks)]) + blocks
    algo = bytes([0x08, 1, 0x1A, len(params)]) + params
    return b"\x0a\x050.0.0" + bytes([0x12, len(algo)]) + algo


if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
