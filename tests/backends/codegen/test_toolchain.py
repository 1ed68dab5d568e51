"""The toolchain: cached by content, deterministic, and plain about what went wrong."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sparsecc import targets
from sparsecc.backends.codegen import cache, toolchain
from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached, compile_and_link
from sparsecc.backends.onnxruntime.library import library_build
from sparsecc.errors import BackendError

ADD = '__attribute__((visibility("default"))) int add(int a, int b) { return a + b; }\n'


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A library of one function, with a cache of its own."""
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "cache")
    return Build("libadd.so", "x86_64-linux-gnu", {"add.c": ADD}, (Unit("add.c"),))


def test_cache_folder_follows_the_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_dir() == Path("/somewhere/sparsecc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_dir() == Path.home() / ".cache" / "sparsecc"


def test_a_second_build_comes_from_the_cache(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_cached(build)
    monkeypatch.setattr(toolchain, "compile_and_link", lambda *_: pytest.fail("built again"))
    assert build_cached(build) == first


def test_what_was_built_works(build: Build) -> None:
    if not targets.runs_here(targets.get("x86-64-v3")):
        pytest.skip("the library is for x86-64")
    assert ctypes.CDLL(str(build_cached(build))).add(2, 3) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"sources": {"add.c": ADD + "/* changed */"}},
        {"triple": "aarch64-linux-gnu"},
        {"compile_flags": (*toolchain.COMPILE_FLAGS, "-DX")},
        {"units": (Unit("add.c", defines=("Y",)),)},
    ],
)
def test_every_input_is_part_of_the_key(build: Build, change: dict[str, object]) -> None:
    other = replace(build, **change)  # type: ignore[arg-type]
    assert build_cached(other) != build_cached(build)


def test_concurrent_builds_agree(build: Build) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(build_cached, [build] * 4))
    (path,) = paths
    assert sorted(p.name for p in path.parent.iterdir()) == [build.name]
    assert not list(path.parent.parent.glob("build-*")), "a scratch folder was left behind"


def test_the_library_has_the_same_bytes_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = library_build(targets.get("arm64-linux"))
    built = build_cached(wanted).read_bytes()
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "no objects yet")
    (tmp_path / "build").mkdir()
    assert compile_and_link(wanted, tmp_path / "build").read_bytes() == built


def test_only_what_changed_is_compiled_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    two = replace(
        build,
        sources={
            **build.sources,
            "other.c": '#include "one.h"\nint other(void) { return 1; }\n',
            "one.h": '#include "two.h"\n',
            "two.h": "",
            "three.h": "",
        },
        units=(Unit("add.c"), Unit("other.c")),
    )
    build_cached(two)
    compiled: list[str] = []
    run = toolchain.run_zig

    def note(arguments: list[str], folder: Path) -> str:
        compiled.extend(name for name in arguments if name.endswith(".c"))
        return run(arguments, folder)

    monkeypatch.setattr(toolchain, "run_zig", note)
    build_cached(replace(two, sources={**two.sources, "add.c": ADD + "/* new */\n"}))
    assert compiled == ["add.c"]
    compiled.clear()
    build_cached(replace(two, sources={**two.sources, "two.h": "/* new */\n"}))
    assert compiled == ["other.c"]
    compiled.clear()
    build_cached(replace(two, sources={**two.sources, "three.h": "/* new */\n"}))
    assert not compiled


def test_a_compile_error_names_the_line(build: Build) -> None:
    bad = replace(build, sources={"add.c": "int add(int a) { return b; }\n"})
    with pytest.raises(BackendError, match=r"add\.c:1:\d+: error: use of undeclared identifier"):
        build_cached(bad)


def test_an_undefined_symbol_is_an_error(build: Build) -> None:
    text = "int missing(void);\n" + ADD.replace("a + b", "a + b + missing()")
    with pytest.raises(BackendError, match="undefined symbol: missing"):
        build_cached(replace(build, sources={"add.c": text}))


def test_no_zig_says_how_to_get_it(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ZIG", (toolchain.ZIG[0], "-m", "no_such_zig"))
    with pytest.raises(BackendError, match="zig is not installed") as error:
        build_cached(replace(build, sources={"add.c": ADD + "\n"}))
    assert error.value.fix == "pip install ziglang"


def test_a_program_that_is_not_there_is_an_error(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "ZIG", ("/no/such/program",))
    with pytest.raises(BackendError, match="zig could not run"):
        build_cached(replace(build, sources={"add.c": ADD + "\n\n"}))


def test_an_unwritable_cache_says_which(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda: Path("/proc/none"))
    with pytest.raises(BackendError, match="cannot write the build cache /proc/none"):
        build_cached(build)


def test_a_copy_replaces_what_was_there(build: Build, tmp_path: Path) -> None:
    built = build_cached(build)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / build.name).write_text("old")
    copied = toolchain.copy_into(built, tmp_path / "out")
    assert copied.read_bytes() == built.read_bytes()
    assert [p.name for p in (tmp_path / "out").iterdir()] == [build.name]
