"""TVM's whole-number expressions as C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsecc.backends.tvm.load import load
from sparsecc.errors import BackendError

_BETWEEN = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "EQ": "==",
    "NE": "!=",
    "LT": "<",
    "LE": "<=",
    "GT": ">",
    "GE": ">=",
    "And": "&&",
    "Or": "||",
    "Div": "/",
    "Mod": "%",
}
_CALLS = {
    "FloorDiv": "sc_floor_div",
    "FloorMod": "sc_floor_mod",
    "Max": "sc_larger",
    "Min": "sc_smaller",
}
"""Functions of ``chain.h``."""


def c_of(expression: Any, names: Mapping[Any, str]) -> str:
    """An expression as C over 64-bit numbers.

    Args:
        expression: A number, or one of TVM's expressions.
        names: C of each variable.

    Raises:
        BackendError: It is of another kind.
    """
    if isinstance(expression, int):
        return str(expression)
    tvm = load()
    kind = type(expression).__name__
    if kind == "IntImm":
        return str(int(expression))
    if isinstance(expression, tvm.ir.Var) and expression in names:
        return names[expression]
    if kind in _BETWEEN:
        a, b = (c_of(each, names) for each in (expression.a, expression.b))
        return f"({a} {_BETWEEN[kind]} {b})"
    if kind in _CALLS:
        a, b = (c_of(each, names) for each in (expression.a, expression.b))
        return f"{_CALLS[kind]}({a}, {b})"
    if kind == "FloatImm":
        return f"(float){float(expression.value)!r}"
    if kind == "Cast":
        into = "float" if str(expression.ty) == "float32" else "i64"
        return f"({into}){c_of(expression.value, names)}"
    if kind == "Select":
        parts = (expression.condition, expression.true_value, expression.false_value)
        test, yes, no = (c_of(each, names) for each in parts)
        return f"({test} ? {yes} : {no})"
    raise BackendError(f"a size is computed as {expression}", fix="export with fixed sizes there")
