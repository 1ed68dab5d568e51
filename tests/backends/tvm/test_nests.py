"""Loops that are written out: products and sums of any size, against float64."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.codegen.toolchain import Build, compile_and_link
from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.nests import Nest, nests_of
from sparsecc.backends.tvm.objects import machine, object_of, runtime_object
from sparsecc.backends.tvm.products import Registers, product_of
from sparsecc.backends.tvm.schedule import registers_of, schedule
from sparsecc.targets import get

TARGET = get("x86-64-v3")
Array = NDArray[np.float32]
CLOSE = 1e-5


def compiled(nests: dict[str, Nest], folder: Path) -> ctypes.CDLL:
    functions = {name: nest.function for name, nest in nests.items()}
    for name, content in (
        ("kernels.o", object_of(functions, machine(TARGET))),
        ("runtime.o", runtime_object(TARGET)),
    ):
        (folder / name).write_bytes(content)
    flags = ("-shared", "kernels.o", "runtime.o")
    build = Build("nests.so", TARGET.triple, {}, (), link_flags=flags)
    return ctypes.CDLL(str(compile_and_link(build, folder)))


def only_nest(tensors: list[Any], variables: list[Any]) -> Nest:
    function = load().te.create_prim_func(tensors).with_attr("tirx.noalias", True)
    (nest,) = nests_of(schedule(function, registers_of(TARGET)).function, variables, "test")
    return nest


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Nest], ctypes.CDLL]:
    """A product and two sums, all sizes open."""
    tvm = load()
    te, tirx = tvm.te, tvm.tirx
    b, m, n, k = (tirx.Var(name, "int64") for name in "bmnk")
    x, y = te.placeholder((b, m, k), "float32", "x"), te.placeholder((b, k, n), "float32", "y")
    inner = te.reduce_axis((0, k), "inner")
    product = te.compute(
        (b, m, n), lambda i, r, c: te.sum(x[i, r, inner] * y[i, inner, c], axis=inner)
    )
    outer, last = te.reduce_axis((0, m), "outer"), te.reduce_axis((0, k), "last")
    total = te.compute((b,), lambda i: te.sum(x[i, outer, last], axis=[outer, last]))
    largest = te.compute((b, m), lambda i, r: te.max(x[i, r, last], axis=last))
    squares = te.compute((b, m), lambda i, r: te.sum(x[i, r, last] * x[i, r, last], axis=last))
    nests = {
        "product": only_nest([x, y, product], [b, m, n, k]),
        "total": only_nest([x, total], [b, m, k]),
        "largest": only_nest([x, largest], [b, m, k]),
        "squares": only_nest([x, squares], [b, m, k]),
    }
    return nests, compiled(nests, tmp_path_factory.mktemp("nests"))


def call(
    kernels: tuple[dict[str, Nest], ctypes.CDLL], name: str, sizes: dict[str, int], *arrays: Array
) -> None:
    """All iterations, in two parts."""
    nests, library = kernels
    nest = nests[name]
    named = dict(zip(("x", "y"), arrays[:-1], strict=False))
    pointers = [
        ctypes.c_void_p(named.get(buffer.name, arrays[-1]).ctypes.data) for buffer in nest.buffers
    ]
    numbers = [ctypes.c_int64(sizes[variable.name]) for variable in nest.sizes]
    extent = {"product": sizes["b"] * -(-sizes["m"] // 4), "total": sizes["b"]}
    whole = extent.get(name, sizes["b"] * sizes["m"])
    for begin, end in ((0, whole // 2), (whole // 2, whole)):
        getattr(library, name)(*pointers, *numbers, ctypes.c_int64(begin), ctypes.c_int64(end))


SIZES = st.fixed_dictionaries(
    {"b": st.integers(1, 3), **{key: st.integers(1, 70) for key in ("m", "n", "k")}}
)


@given(SIZES, st.integers(0, 99))
def test_a_product_of_any_size(
    kernels: tuple[dict[str, Nest], ctypes.CDLL], sizes: dict[str, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    b, m, n, k = (sizes[key] for key in "bmnk")
    x = rng.standard_normal((b, m, k)).astype(np.float32)
    y = rng.standard_normal((b, k, n)).astype(np.float32)
    guarded = np.full(b * m * n + 8, 7, np.float32)
    call(kernels, "product", sizes, x, y, guarded)
    want = x.astype(np.float64) @ y
    np.testing.assert_allclose(guarded[:-8].reshape(want.shape), want, atol=CLOSE * k)
    assert (guarded[-8:] == 7).all()


@given(SIZES, st.integers(0, 99))
def test_sums_and_largest_values_of_any_size(
    kernels: tuple[dict[str, Nest], ctypes.CDLL], sizes: dict[str, int], seed: int
) -> None:
    b, m, k = (sizes[key] for key in "bmk")
    x = np.random.default_rng(seed).standard_normal((b, m, k)).astype(np.float32)
    total, largest = np.full(b, 7, np.float32), np.full((b, m), 7, np.float32)
    call(kernels, "total", sizes, x, total)
    call(kernels, "largest", sizes, x, largest)
    np.testing.assert_allclose(total, x.astype(np.float64).sum((1, 2)), atol=CLOSE * m * k)
    np.testing.assert_array_equal(largest, x.max(-1))
    squares = np.full((b, m), 7, np.float32)
    call(kernels, "squares", sizes, x, squares)
    np.testing.assert_allclose(squares, (x.astype(np.float64) ** 2).sum(-1), atol=CLOSE * k)


def test_what_is_no_product_is_left_to_other_rules() -> None:
    tvm = load()
    te = tvm.te
    x = te.placeholder((8, 16), "float32", "x")
    k = te.reduce_axis((0, 16), "k")
    for made in (
        te.compute((8,), lambda i: te.sum(x[i, k], axis=k)),
        te.compute((8,), lambda i: te.sum(x[i, k] * x[i, k], axis=k)),  # columns of no operand
        te.compute((8, 4), lambda i, j: te.sum(x[i, k] * x[i, k + 0 * j], axis=k)),
    ):
        function = te.create_prim_func([x, made])
        sch = tvm.s_tir.Schedule(function)
        (block,) = sch.get_child_blocks(sch.get_sblock("root"))
        assert product_of(sch.get(block)) is None


def test_a_tile_leaves_half_of_the_registers() -> None:
    assert Registers(16, 32).columns == 64
    assert Registers(8, 16).columns == 16
    assert Registers(4, 32).columns == 16
