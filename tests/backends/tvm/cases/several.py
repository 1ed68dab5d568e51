"""A few ops together, as networks have them."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.backends.tvm.cases.case import Case


def several() -> list[Case]:
    ids = {"x": ("int64", ("b", "s")), "y": ("int64", ("b", "s"))}
    table = np.random.default_rng(3).standard_normal((20, 8)).astype(np.float32)
    return [
        Case(
            "embedding",
            [
                ("Gather", ["c", "x"], ["e"], {}),
                ("Shape", ["x"], ["t"], {}),
                ("Gather", ["t", "i"], ["l"], {}),
                ("Unsqueeze", ["l", "zero"], ["l1"], {}),
                ("Slice", ["positions", "zero", "l1", "one"], ["p"], {}),
                ("Gather", ["c", "p"], ["pe"], {}),
                ("Add", ["e", "pe"], ["o"], {}),
            ],
            ids,
            {
                "c": table,
                "i": np.int64(1),
                "zero": np.int64([0]),
                "one": np.int64([1]),
                "positions": np.arange(16)[None],
            },
            0,
            19,
        ),
        Case(
            "masked_mean",
            [
                ("Gather", ["c", "x"], ["e"], {}),
                ("Cast", ["y"], ["m"], {"to": 1}),
                ("Unsqueeze", ["m", "last"], ["m3"], {}),
                ("Mul", ["e", "m3"], ["em"], {}),
                ("ReduceSum", ["em", "one"], ["sum"], {"keepdims": 0}),
                ("ReduceSum", ["m3", "one"], ["count"], {"keepdims": 0}),
                ("Clip", ["count", "tiny"], ["count1"], {}),
                ("Div", ["sum", "count1"], ["o"], {}),
            ],
            ids,
            {"c": table, "last": np.int64([2]), "one": np.int64([1]), "tiny": np.float32(1e-9)},
            0,
            1,
        ),
        Case(
            "mask",
            [
                ("Unsqueeze", ["y", "axes"], ["m4"], {}),
                ("Cast", ["m4"], ["mf"], {"to": 1}),
                ("Sub", ["unit", "mf"], ["inverse"], {}),
                ("Mul", ["inverse", "low"], ["o"], {}),
            ],
            {"y": ids["y"]},
            {"axes": np.int64([1, 2]), "unit": np.float32(1), "low": np.float32(-3.4e38)},
            0,
            1,
        ),
        Case(
            "heads",
            [
                ("Shape", ["x"], ["t"], {"start": 0, "end": 2}),
                ("Concat", ["t", "heads"], ["sizes"], {"axis": 0}),
                ("Reshape", ["x", "sizes"], ["r"], {}),
                ("Transpose", ["r"], ["q"], {"perm": [0, 2, 1, 3]}),
                ("Transpose", ["r"], ["k"], {"perm": [0, 2, 3, 1]}),
                ("MatMul", ["q", "k"], ["scores"], {}),
                ("Mul", ["scores", "scale"], ["scaled"], {}),
                ("Softmax", ["scaled"], ["p"], {"axis": -1}),
                ("MatMul", ["p", "q"], ["mixed"], {}),
                ("Transpose", ["mixed"], ["back"], {"perm": [0, 2, 1, 3]}),
                ("Reshape", ["back", "joined"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "s", 12))},
            {"heads": np.int64([3, 4]), "scale": np.float32(0.5), "joined": np.int64([0, 0, 12])},
        ),
        Case(
            "range",
            [
                ("Shape", ["x"], ["t"], {}),
                ("Gather", ["t", "i"], ["n"], {}),
                ("Range", ["zero", "n", "one"], ["r"], {}),
                ("Cast", ["r"], ["f"], {"to": 1}),
                ("Mul", ["x", "f"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "n"))},
            {"i": np.int64(1), "zero": np.int64(0), "one": np.int64(1)},
        ),
        Case(
            "constant_of_shape",
            [
                ("Shape", ["x"], ["t"], {}),
                (
                    "ConstantOfShape",
                    ["t"],
                    ["ones"],
                    {"value": helper.make_tensor("v", 1, [1], [3.0])},
                ),
                ("Sub", ["ones", "x"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "n"))},
        ),
        Case(
            "expand_open",
            [
                ("Shape", ["x"], ["t"], {}),
                ("Expand", ["c", "t"], ["e"], {}),
                ("Add", ["e", "x"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "n"))},
            {"c": np.float32([2.5])},
        ),
    ]
