"""Ops that go element by element: of one value, of several, and casts."""

from __future__ import annotations

import numpy as np

from tests.backends.tvm.cases.case import Case, F, one

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "LogSoftmax",
    "Softmax",
    "Identity",
    "IsNaN",
]
RANGES = {
    "Acos": (-1, 1),
    "Asin": (-1, 1),
    "Atanh": (-0.9, 0.9),
    "Acosh": (1.01, 5),
    "Log": (0.1, 9),
    "Sqrt": (0, 9),
    "Exp": (-80, 80),
    "Erf": (-4, 4),
    "Tanh": (-9, 9),
    "Sigmoid": (-40, 40),
    "Sin": (-50, 50),
    "Cos": (-50, 50),
    "Softmax": (-30, 30),
    "Mish": (-9, 9),
}


def unary() -> list[Case]:
    return [
        Case(op.lower(), [one(op, "x")], {"x": F}, {}, *RANGES.get(op, (-2, 2))) for op in UNARY
    ]


def binary() -> list[Case]:
    two = {"x": ("float32", ("b", "n", 4)), "y": ("float32", ("n", 1))}
    whole = {"x": ("int64", ("b", "n")), "y": ("int64", ("n",))}
    arithmetic = [Case(op.lower(), [one(op, "x", "y")], two) for op in ("Add", "Sub", "Mul", "Div")]
    compared = [
        Case(op.lower(), [one(op, "x", "y")], whole)
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min")
    ]
    logic = {"x": ("bool", ("b", "n")), "y": ("bool", ("n",))}
    return [
        *arithmetic,
        *compared,
        *(Case(op.lower(), [one(op, "x", "y")], logic) for op in ("And", "Or", "Xor")),
        Case("not", [one("Not", "x")], {"x": logic["x"]}),
        Case("pow", [one("Pow", "x", "c")], {"x": F}, {"c": np.float32(1.7)}, 0.1, 3),
        Case("pow2", [one("Pow", "x", "c")], {"x": F}, {"c": np.float32(2)}),
        Case("mod", [one("Mod", "x", "c")], {"x": whole["x"]}, {"c": np.int64(3)}, -9, 9),
        Case("fmod", [one("Mod", "x", "c", fmod=1)], {"x": F}, {"c": np.float32(0.7)}),
        Case("prelu", [one("PRelu", "x", "c")], {"x": F}, {"c": np.float32([0.3])}),
        Case(
            "clip",
            [one("Clip", "x", "low", "high")],
            {"x": F},
            {"low": np.float32(-1), "high": np.float32(1)},
        ),
        Case("where", [one("Where", "x", "y", "z")], {"x": logic["x"], "y": F, "z": F}),
        Case("sum", [one("Sum", "x", "y", "z")], {"x": F, "y": F, "z": F}),
        Case("mean", [one("Mean", "x", "y")], {"x": F, "y": F}),
    ]


def casts() -> list[Case]:
    kinds = {"float32": 1, "int32": 6, "int64": 7, "uint8": 2, "bool": 9}
    return [
        Case(f"cast_{a}_{b}", [one("Cast", "x", to=kinds[b])], {"x": (a, ("b", "n"))}, {}, 0, 4)
        for a in kinds
        for b in kinds
        if a != b
    ]
