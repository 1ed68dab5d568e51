"""Mathematical functions of kernels, as arithmetic or as calls of ``runtime.c``: there is no libm.

What is written out here becomes vectors; what is called does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsecc.backends.tvm.load import load, tvm_ffi

CALLED = (
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "erf", "exp"),
    *("exp10", "exp2", "fmod", "log", "log10", "log1p", "log2", "pow", "round", "sin", "sinh"),
    *("tan", "tanh"),
)
"""Functions of float64 that ``runtime.c`` defines as ``sc_math_<name>``."""

_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP_LOWEST, _EXP_HIGHEST = -87.3365, 88.7228
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
"""(e^r − 1 − r) / r² for |r| ≤ ln 2 / 2: Cephes, expf."""
_TANH = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
"""(tanh(x) − x) / x³ in x² for |x| < 0.625: Cephes, tanhf."""
_ERF_SMALL = (
    *(7.853861353153693e-5, -8.010193625184903e-4, 5.188327685732524e-3),
    *(-2.685381193529856e-2, 1.128358514861418e-1, -3.761262582423300e-1, 1.128379165726710),
)
"""erf(x) / x in x² for |x| < 1: Cephes, ndtrf."""


def without_library(function: Any) -> Any:
    """The same function; what would be a call of libm is arithmetic or a call of ``runtime.c``."""
    tvm = load()
    return tvm_ffi().structural_map(
        function, [(tvm.ir.Call, _replaced), (tvm.tirx.Mod, _remainder)]
    )


def _remainder(each: Any) -> Any:
    dtype = str(each.ty)
    return _called("fmod", (each.a, each.b), dtype) if dtype.startswith("float") else each


def _replaced(call: Any) -> Any:
    name = str(getattr(call.op, "name", ""))
    if not name.startswith("tirx."):
        return call
    short = name.removeprefix("tirx.")
    dtype = str(call.ty)
    if short in _WRITTEN and dtype == "float32":
        return _WRITTEN[short](*call.args)
    if short in CALLED and dtype in ("float32", "float64", "float16"):
        return _called(short, call.args, dtype)
    return call


def _called(name: str, operands: Any, dtype: str) -> Any:
    tirx = load().tirx
    wide = [each.astype("float64") for each in operands]
    return tirx.call_pure_extern("float64", f"sc_math_{name}", *wide).astype(dtype)


def _f32(value: float) -> Any:
    return load().tirx.FloatImm("float32", value)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    total = _f32(coefficients[0])
    for each in coefficients[1:]:
        total = total * x + _f32(each)
    return total


def _exp(x: Any) -> Any:
    """Two ulp; 0 below the normal numbers of float32, infinity above the largest, NaN of NaN."""
    tirx = load().tirx
    inside = tirx.max(tirx.min(x, _f32(_EXP_HIGHEST)), _f32(_EXP_LOWEST))
    whole = tirx.floor(inside * _f32(_LOG2_E) + _f32(0.5))
    rest = inside - whole * _f32(_LN2_HIGH) - whole * _f32(_LN2_LOW)
    power = _polynomial(rest, _EXP) * rest * rest + rest + _f32(1.0)
    bits = tirx.reinterpret("int32", power) + (whole.astype("int32") << 23)
    made = tirx.reinterpret("float32", bits)
    made = tirx.Select(x < _f32(_EXP_LOWEST), _f32(0.0), made)
    made = tirx.Select(x > _f32(_EXP_HIGHEST), tirx.infinity("float32"), made)
    return tirx.Select(tirx.isnan(x), x, made)


def _tanh(x: Any) -> Any:
    tirx = load().tirx
    square = x * x
    small = _polynomial(square, _TANH) * square * x + x
    large = _f32(1.0) - _f32(2.0) / (_exp(tirx.abs(x) * _f32(2.0)) + _f32(1.0))
    signed = tirx.Select(x < _f32(0.0), -large, large)
    return tirx.Select(tirx.abs(x) < _f32(0.625), small, signed)


def _erf(x: Any) -> Any:
    """Near zero a polynomial, else 1 − e^(−x²) times one: Abramowitz and Stegun, 7.1.28's kind."""
    tirx = load().tirx
    small = _polynomial(x * x, _ERF_SMALL) * x
    size = tirx.min(tirx.abs(x), _f32(4.0))
    t = _f32(1.0) / (_f32(1.0) + _f32(0.3275911) * size)
    tail = _polynomial(t, _ERF_TAIL) * t * _exp(-size * size)
    large = _f32(1.0) - tail
    signed = tirx.Select(x < _f32(0.0), -large, large)
    made = tirx.Select(tirx.abs(x) < _f32(1.0), small, signed)
    return tirx.Select(tirx.isnan(x), x, made)


_ERF_TAIL = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""(1 − erf(x)) e^(x²) / t in t = 1 / (1 + 0.3275911 x), to 1.5e-7: Abramowitz and Stegun 7.1.26."""

_WRITTEN: dict[str, Callable[..., Any]] = {
    "exp": _exp,
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": lambda x: _f32(1.0) / (_f32(1.0) + _exp(-x)),
    "rsqrt": lambda x: _f32(1.0) / load().tirx.sqrt(x),
}
