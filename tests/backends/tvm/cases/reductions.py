"""Ops that make one of many."""

from __future__ import annotations

import numpy as np

from tests.backends.tvm.cases.case import Case, F, one


def reductions() -> list[Case]:
    ops = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
    made = []
    for op in ops:
        low = 0.1 if op.startswith("Log") else -2
        for axes, keep in (([1], 0), ([-1], 1), ([0, 2], 1)):
            name = f"reduce_{op.lower()}_{len(axes)}{axes[0]}".replace("-", "m")
            node = one(f"Reduce{op}", "x", "axes", keepdims=keep)
            inputs = {"x": ("float32", ("b", "n", 6))}
            made.append(Case(name, [node], inputs, {"axes": np.int64(axes)}, low))
    return [
        *made,
        Case("argmax", [one("ArgMax", "x", axis=-1)], {"x": ("float32", ("b", "n", 12))}),
        Case(
            "argmax1", [one("ArgMax", "x", axis=1, keepdims=0)], {"x": ("float32", ("b", "n", 3))}
        ),
        Case("argmin", [one("ArgMin", "x", axis=0)], {"x": F}),
        Case("cumsum", [one("CumSum", "x", "c")], {"x": F}, {"c": np.int64(1)}),
    ]
