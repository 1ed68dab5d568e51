"""Generated code with and without tuning, beside ONNX Runtime: ops without a step of the library.

``python -m benchmarks.tuning FOLDER --tune 60s`` compiles what is not there yet, and
``python -m benchmarks.tuning FOLDER`` times it, alternating, one thread, medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import sparsecc

ROUNDS = 41
OPS: dict[str, tuple[str, list[int], list[int], dict[str, list[int]], dict[str, Any]]] = {
    "instance norm": (
        "InstanceNormalization",
        [1, 64, 112, 112],
        [1, 64, 112, 112],
        {"a": [64], "b": [64]},
        {},
    ),
    "transposed conv": (
        "ConvTranspose",
        [1, 64, 28, 28],
        [1, 32, 56, 56],
        {"w": [64, 32, 4, 4]},
        {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "conv 3d": (
        "Conv",
        [1, 16, 16, 28, 28],
        [1, 32, 16, 28, 28],
        {"w": [32, 16, 3, 3, 3]},
        {"kernel_shape": [3, 3, 3], "pads": [1] * 6},
    ),
}
"""By name: the op, the shapes of input, output and weights, and its attributes."""


def model(name: str) -> onnx.ModelProto:
    """One node with random weights."""
    op, given, made, weights, attributes = OPS[name]
    rng = np.random.default_rng(0)
    values = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), key)
        for key, shape in weights.items()
    ]
    node = helper.make_node(op, ["x", *weights], ["y"], "op", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, given)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, made)
    graph = helper.make_graph([node], "one", [x], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def compile_all(folder: Path, effort: str) -> None:
    """Both artifacts of every op, where they are not there yet."""
    for name in OPS:
        for kind, tune in (("direct", None), ("tuned", effort)):
            place = folder / name / kind
            if not place.exists():
                made = sparsecc.compile(model(name), backend="bundle", tune=tune)
                place.parent.mkdir(parents=True, exist_ok=True)
                made.save(place)
                print(f"{name}: {kind} is there", flush=True)


def times(folder: Path, name: str) -> list[float]:
    """Times, ms, of ONNX Runtime, the direct and the tuned schedules."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    reference = ort.InferenceSession(model(name).SerializeToString(), options)
    x = np.random.default_rng(1).standard_normal(OPS[name][1]).astype(np.float32)
    sides: list[Callable[[], Any]] = [lambda: reference.run(None, {"x": x})]
    for kind in ("direct", "tuned"):
        session = sparsecc.load(folder / name / kind).session
        sides.append(lambda session=session: session.run(None, {"x": x}))
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, into in zip(sides, taken, strict=True):
            start = time.perf_counter()
            side()
            into.append((time.perf_counter() - start) * 1e3)
    return [float(np.median(each)) for each in taken]


def main() -> None:
    """Compile or time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tune", help="how long to tune each op, such as 60s")
    options = parser.parse_args()
    if options.tune:
        compile_all(options.folder, options.tune)
        return
    print("| op | ONNX Runtime, ms | direct | tuned | gain |\n|---|---|---|---|---|")
    for name in OPS:
        reference, direct, tuned = times(options.folder, name)
        print(f"| {name} | {reference:.2f} | {direct:.2f} | {tuned:.2f} | {direct / tuned:.2f} |")


if __name__ == "__main__":
    main()
