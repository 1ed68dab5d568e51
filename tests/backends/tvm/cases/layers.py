"""Normalisations and products."""

from __future__ import annotations

import numpy as np

from tests.backends.tvm.cases.case import IMAGE, Case, normal, one


def norms() -> list[Case]:
    return [
        Case(
            "batchnorm",
            [one("BatchNormalization", "x", "a", "c", "d", "e")],
            {"x": IMAGE},
            {"a": normal(3), "c": normal(3), "d": normal(3), "e": np.abs(normal(3)) + 1},
        ),
        Case(
            "instancenorm",
            [one("InstanceNormalization", "x", "a", "c")],
            {"x": IMAGE},
            {"a": normal(3), "c": normal(3)},
        ),
        Case(
            "layernorm",
            [one("LayerNormalization", "x", "a", "c")],
            {"x": ("float32", ("b", "n", 6))},
            {"a": normal(6), "c": normal(6)},
        ),
        Case("lrn", [one("LRN", "x", size=3)], {"x": ("float32", ("b", 5, 4, 4))}),
    ]


def products() -> list[Case]:
    return [
        Case(
            "gemm",
            [one("Gemm", "x", "c", "d", transB=1, alpha=0.5)],
            {"x": ("float32", ("b", 6))},
            {"c": normal(7, 6), "d": normal(7)},
        ),
        Case(
            "matmul",
            [one("MatMul", "x", "y")],
            {"x": ("float32", ("b", 2, "n", 8)), "y": ("float32", ("b", 2, 8, "s"))},
        ),
        Case(
            "matmul_weight",
            [one("MatMul", "x", "c")],
            {"x": ("float32", ("b", "n", 8))},
            {"c": normal(8, 20)},
        ),
        Case(
            "matmul_rows",
            [one("MatMul", "x", "y")],
            {"x": ("float32", (12, 16)), "y": ("float32", (16, 40))},
        ),
        Case(
            "matmul_turned",
            [("Transpose", ["y"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["o"], {})],
            {"x": ("float32", ("b", "n", 8)), "y": ("float32", ("b", "s", 8))},
        ),
    ]
