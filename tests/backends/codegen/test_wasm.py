"""Modules for WebAssembly: what they export, what they import, and what falls away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime

from sparsecc.backends.codegen import cache, toolchain
from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached, wasm_module
from sparsecc.backends.kernels.table import ISAS
from sparsecc.errors import BackendError

SOURCE = """
typedef float vf __attribute__((vector_size(16)));
int unused(int a) { static char room[1 << 16]; return room[a]++; }
float dot(float a, float b)
{
  volatile vf v = {a, b, a, b};
  vf x = v, y = v, z = x * y + v;
  return z[0] + z[1] + z[2] + z[3];
}
__attribute__((disable_tail_calls)) int deep(int depth)
{
  volatile char frame[1 << 12];
  frame[depth] = (char)depth;
  return depth ? deep(depth - 1) + frame[depth] : 0;
}
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A module of two functions, with a cache of its own."""
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "cache")
    cpu = ISAS["wasm-simd128"].cpu
    return wasm_module("two.wasm", {"two.c": SOURCE}, (Unit("two.c", cpu),), ["dot", "deep"])


def instance(path: Path) -> tuple[wasmtime.Store, wasmtime.Instance, wasmtime.Module]:
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, str(path))
    return store, wasmtime.Instance(store, module, []), module


def call(store: wasmtime.Store, which: wasmtime.Instance, name: str, *args: float) -> float:
    function = which.exports(store)[name]
    assert isinstance(function, wasmtime.Func)
    return float(function(store, *args))


def test_a_module_exports_what_is_for_others_and_imports_nothing(build: Build) -> None:
    path = build_cached(build)
    store, made, module = instance(path)
    assert {each.name for each in module.exports} == {"memory", "dot", "deep"}
    assert not module.imports
    assert call(store, made, "dot", 3.0, 5.0) == 2 * (9 + 3) + 2 * (25 + 5)
    assert path.stat().st_size < 1000, "what no export reaches is still there"


def test_a_stack_that_is_used_up_traps(build: Build) -> None:
    store, made, _ = instance(build_cached(build))
    assert call(store, made, "deep", 200) != 0
    with pytest.raises(wasmtime.Trap, match="out of bounds"):
        call(store, made, "deep", 300)


def test_only_relaxed_simd_has_a_multiply_add(build: Build) -> None:
    madd = bytes([0xFD, 0x85, 0x02])  # f32x4.relaxed_madd
    relaxed = replace(build, units=(Unit("two.c", ISAS["wasm-relaxed"].cpu),))
    assert madd not in build_cached(build).read_bytes()
    assert madd in build_cached(relaxed).read_bytes()


def test_a_module_has_the_same_bytes_every_time(build: Build, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = toolchain.compile_and_link(build, tmp_path / "again")
    assert again.read_bytes() == build_cached(build).read_bytes()


def test_an_export_that_is_not_there_is_an_error(build: Build) -> None:
    with pytest.raises(BackendError, match="symbol exported via --export not found: dott"):
        build_cached(replace(build, link_flags=(*build.link_flags, "--export=dott")))


def test_an_undefined_symbol_is_an_error(build: Build) -> None:
    text = "int missing(void);\n" + SOURCE.replace("z[3]", "z[3] + (float)missing()")
    with pytest.raises(BackendError, match="undefined symbol: missing"):
        build_cached(replace(build, sources={"two.c": text}))
