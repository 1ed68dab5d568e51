"""Mathematical functions of generated code, against float64 over their whole range."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from numpy.typing import NDArray

from sparsecc.backends.codegen.toolchain import Build, Unit, compile_and_link
from sparsecc.backends.tvm import functions
from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.objects import machine, object_of
from sparsecc.targets import get

Array = NDArray[Any]
HERE = Path(functions.__file__).parent
CLOSE = 1e-12
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(["acos", "asin"], (-1.0, 1.0)),
    **dict.fromkeys(["log", "log2", "log10"], (1e-300, 1e300)),
    **dict.fromkeys(["exp", "sinh", "cosh"], (-700.0, 700.0)),
    **dict.fromkeys(["sin", "cos", "tan"], (-1e4, 1e4)),
    "acosh": (1.0, 1e10),
    "atanh": (-0.999, 0.999),
    "exp2": (-1000.0, 1000.0),
    "exp10": (-300.0, 300.0),
    "erf": (-7.0, 7.0),
    "log1p": (-0.999, 1e6),
    "tanh": (-30.0, 30.0),
}
OTHERS: dict[str, Callable[..., Any]] = {
    "erf": scipy.special.erf,
    "exp10": scipy.special.exp10,
    "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
}
"""Oracles that numpy does not have under the same name."""
NUMPY = {"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh"}
NUMPY |= {"atan": "arctan", "atan2": "arctan2", "atanh": "arctanh", "pow": "power"}
TWO = ("atan2", "fmod", "pow")


def oracle(name: str) -> Callable[..., Any]:
    return OTHERS.get(name) or getattr(np, NUMPY.get(name, name))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """``runtime.c`` with its functions to be seen."""
    text = (HERE / "runtime.c").read_text().replace('visibility("hidden")', 'visibility("default")')
    build = Build(
        name="runtime.so",
        triple="x86_64-linux-gnu",
        sources={"runtime.c": text},
        units=(Unit("runtime.c", "x86_64_v3", flags=("-fno-builtin",)),),
    )
    return ctypes.CDLL(str(compile_and_link(build, tmp_path_factory.mktemp("runtime"))))


def called(runtime: ctypes.CDLL, name: str, *operands: Array) -> Array:
    function = getattr(runtime, f"sc_math_{name}")
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double] * len(operands)
    return np.array([function(*row) for row in zip(*operands, strict=True)])


@pytest.mark.parametrize("name", [name for name in functions.CALLED if name not in TWO])
def test_a_function_of_one_number(runtime: ctypes.CDLL, name: str) -> None:
    low, high = RANGES.get(name, (-1e6, 1e6))
    x = np.concatenate([np.linspace(low, high, 4001), np.linspace(max(low, -2), min(high, 2), 999)])
    want = oracle(name)(x)
    scale = np.maximum(np.abs(want), 1e-300)
    if name in ("sin", "cos", "log", "log2", "log10", "acos", "tan"):
        scale = np.maximum(scale, 1.0 if name != "tan" else 1 + want * want)  # they pass through 0
    assert np.max(np.abs(called(runtime, name, x) - want) / scale) < CLOSE


def test_functions_of_two_numbers(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-20, 20, (2, 3000))
    np.testing.assert_allclose(called(runtime, "atan2", y, x), np.arctan2(y, x), rtol=CLOSE)
    np.testing.assert_allclose(called(runtime, "fmod", x, y), np.fmod(x, y), atol=1e-12)
    np.testing.assert_allclose(called(runtime, "pow", abs(x), y), abs(x) ** y, rtol=CLOSE)
    whole = np.round(y)
    np.testing.assert_allclose(called(runtime, "pow", x, whole), x**whole, rtol=CLOSE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sin", "atan", "sinh", "round"])
def test_what_is_no_number(runtime: ctypes.CDLL, name: str, value: float) -> None:
    x = np.array([value])
    with np.errstate(invalid="ignore", divide="ignore"):
        np.testing.assert_equal(called(runtime, name, x)[0], oracle(name)(x)[0])


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_memory(runtime: ctypes.CDLL, count: int) -> None:
    data = np.arange(256, dtype=np.uint8)
    for function, shift in (("sccopy", 110), ("scmoves", 3), ("scmoves", -3)):
        wanted, got, start = data.copy(), data.copy(), 10
        wanted[start + shift : start + shift + count] = data[start : start + count]
        at = got.ctypes.data + start
        to, size = ctypes.c_void_p(at + shift), ctypes.c_size_t(count)
        getattr(runtime, function)(to, ctypes.c_void_p(at), size)
        np.testing.assert_array_equal(got, wanted)
    filled = data.copy()
    runtime.scfill(ctypes.c_void_p(filled.ctypes.data + 7), 5, ctypes.c_size_t(count))
    np.testing.assert_array_equal(filled[7 : 7 + count], np.full(count, 5))
    np.testing.assert_array_equal(filled[7 + count :], data[7 + count :])


NORMAL = 1.2e-31
"""Numbers below 2e-38 may become 0: that is an ulp of this one."""
WRITTEN = {"exp": 2.0, "tanh": 3.0, "erf": 4.0, "sigmoid": 4.0}
"""Functions written as arithmetic, and the ulp they may be off."""


def _of(function: Callable[..., Any], x: Any) -> Callable[[Any], Any]:
    return lambda i: function(x[i])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """A kernel of each, over 1 << 16 numbers."""
    tvm = load()
    x = tvm.te.placeholder((1 << 16,), "float32", name="x")
    kernels = {}
    for name in WRITTEN:
        function = getattr(tvm.tirx, name)
        made = tvm.te.compute(x.shape, _of(function, x), name="y")
        kernels[f"test_{name}"] = tvm.te.create_prim_func([x, made])
    folder = tmp_path_factory.mktemp("written")
    (folder / "kernels.o").write_bytes(object_of(kernels, machine(get("x86-64-v3"))))
    build = Build(
        name="written.so",
        triple="x86_64-linux-gnu",
        sources={},
        units=(),
        link_flags=("-shared", "kernels.o"),
    )
    return ctypes.CDLL(str(compile_and_link(build, folder)))


@pytest.mark.parametrize("name", list(WRITTEN))
def test_a_function_that_is_written_out(written: ctypes.CDLL, name: str) -> None:
    bits = np.linspace(0, 2**32 - 1, 1 << 16).astype(np.uint32)  # of all sizes and signs
    x = np.where(np.arange(1 << 16) % 2, bits.view(np.float32), np.linspace(-100, 100, 1 << 16))
    x = x.astype(np.float32)
    x[:5] = math.nan, math.inf, -math.inf, 0, -0.0
    got = np.empty_like(x)
    getattr(written, f"test_{name}")(
        ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(got.ctypes.data)
    )
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        exact = scipy.special.expit(wide) if name == "sigmoid" else oracle(name)(wide)
        want = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])
    near = np.isfinite(want)
    units = np.abs(got[near] - exact[near]) / np.spacing(np.maximum(np.abs(want[near]), NORMAL))
    assert units.max() <= WRITTEN[name]
