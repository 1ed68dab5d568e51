"""Bundles run here: right for any size, every mistake told, nothing left behind."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import build, spec
from sparsecc import targets
from sparsecc.backends.bundle import run
from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.bundle.run import Memory, Session, open_bundle
from sparsecc.backends.bundle.whole import Extern, Port, Whole
from sparsecc.backends.codegen.program import Program, Step
from sparsecc.errors import ArtifactError, BackendError
from tests.backends.bundle import wholes
from tests.passes.regions.wholes import made

TOLERANCE = 1e-5
NATIVE = targets.TARGETS["x86-64"]


@pytest.fixture(scope="module")
def session(mlp_folder: Path) -> Session:
    return open_bundle(mlp_folder)


def random(seed: int, *shape: int) -> wholes.Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def opened(whole: Whole, folder: Path, name: str = "model") -> Session:
    build_bundle(whole, NATIVE, name, folder)
    return open_bundle(folder)


@given(rows=st.integers(1, 150), seed=st.integers(0, 9))
def test_any_number_of_rows(session: Session, rows: int, seed: int) -> None:
    x = random(seed, rows, 33)
    want = wholes.run_mlp(wholes.MLP[1], x)
    (got,) = session.run(None, {"x": x})
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@given(
    sizes=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    block=st.sampled_from([(1, 1), (2, 1), (4, 1), (16, 1), (1, 4), (3, 2)]),
    density=st.sampled_from([0.0, 0.2, 1.0]),
    rows=st.integers(1, 80),
)
@settings(max_examples=8)
def test_any_small_model(
    sizes: list[int], block: tuple[int, int], density: float, rows: int
) -> None:
    whole, layers = wholes.mlp(tuple(sizes), len(sizes), density, block)
    x = random(rows, rows, sizes[0])
    want = wholes.run_mlp(layers, x)
    with tempfile.TemporaryDirectory() as folder:
        (got,) = opened(whole, Path(folder)).run(None, {"x": x})
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_it_looks_like_a_session_of_onnxruntime(session: Session) -> None:
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type) == ("x", ["rows", 33], "tensor(float)")
    assert (y.name, y.shape, y.type) == ("y", ["rows", 5], "tensor(float)")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("mobilenet_v1", "4x1:0.8"),
        ("mobilenet_v3_large", "4x1:0.8"),  # windows of 5x5 as well
        ("resnet18", ""),
        ("vit_tiny", "4x1:0.5"),
    ],
)
def test_a_network(tmp_path: Path, name: str, pattern: str) -> None:
    layers = spec.shrink(spec.load(name), 0.25, 64)
    model, feeds = build.build(layers, *([pattern] if pattern else [])), build.inputs(layers)
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    (got,) = opened(made(model)[0], tmp_path).run(None, feeds)
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


# ---- mistakes ----
BAD_FEEDS = {
    r"input 'x' has shape \[7, 5\], the model takes \[rows, 33\]": {"x": np.zeros((7, 5), "f4")},
    r"input 'x' has shape \[33\]": {"x": np.zeros(33, "f4")},
    r"input 'x' has shape \[0, 33\]": {"x": np.zeros((0, 33), "f4")},
    "input 'x' is float64": {"x": np.zeros((7, 33))},
    "input 'x' is int32, the model takes float32": {"x": np.zeros((7, 33), "i4")},
    "input 'x' is missing": {},
    "no input 'z'": {"x": np.zeros((7, 33), "f4"), "z": np.zeros(1, "f4")},
}


@pytest.mark.parametrize("message", BAD_FEEDS)
def test_a_bad_input_is_named(session: Session, message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        session.run(None, BAD_FEEDS[message])
    assert caught.value.fix


def test_an_unknown_output_is_named(session: Session) -> None:
    with pytest.raises(BackendError, match="no output 'z'"):
        session.run(["z"], {"x": np.zeros((7, 33), "f4")})


def test_inputs_that_do_not_agree(tmp_path: Path) -> None:
    session = opened(wholes.two_inputs(), tmp_path)
    a, b = random(0, 4, 3), random(1, 4, 3)
    s, t = session.run(None, {"a": a, "b": b})
    np.testing.assert_array_equal(s, a + b)
    np.testing.assert_array_equal(t, np.maximum(a + b, 0))
    (only,) = session.run(["t"], {"a": a, "b": b})
    np.testing.assert_array_equal(only, t)
    with pytest.raises(BackendError, match="input 'b' has 5 for rows, which is 4 elsewhere"):
        session.run(None, {"a": a, "b": random(1, 5, 3)})


def test_the_layer_is_named_where_sizes_do_not_fit(tmp_path: Path) -> None:
    whole = wholes.two_inputs()
    free = Port("b", "float32", ("other", "columns"))
    session = opened(dataclasses.replace(whole, inputs=(whole.inputs[0], free)), tmp_path)
    with pytest.raises(BackendError, match="model: layer 'sum': ") as caught:
        session.run(None, {"a": random(0, 4, 3), "b": random(1, 5, 7)})
    assert "exported for" in str(caught.value.fix)


def altered(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def test_weights_that_are_not_its_own(mlp_folder: Path, tmp_path: Path) -> None:
    folder = altered(mlp_folder, tmp_path)
    weights = folder / "weights.bin"
    whole = weights.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1
    other = tmp_path / "other"
    other.mkdir()
    build_bundle(wholes.mlp((33, 40, 17, 5), seed=1)[0], NATIVE, "tiny", other)
    for content, message in (
        (bytes(changed), "damaged"),
        (whole[:-64], "the bytes that they should have"),
        (whole[:40], "cut short"),
        (b"x" * len(whole), "not a weights file"),
        ((other / "weights.bin").read_bytes(), "of another model"),
    ):
        weights.write_bytes(content)
        with pytest.raises(BackendError, match=message) as caught:
            open_bundle(folder)
        assert "weights file" in str(caught.value.fix)
    weights.write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot read the weights"):
        open_bundle(folder)
    weights.unlink()
    with pytest.raises(ArtifactError, match="cannot read the weights"):
        open_bundle(folder)


def test_a_library_that_is_missing_or_none(mlp_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has 0 libraries"):
        open_bundle(tmp_path)
    folder = altered(mlp_folder, tmp_path)
    (folder / "libtiny.so").write_bytes(b"nothing")
    with pytest.raises(BackendError, match="does not load"):
        open_bundle(folder)


def test_a_program_of_another_table_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sparsecc.backends.codegen.program.steps_key", lambda: 7)
    with pytest.raises(BackendError, match="another version"):
        opened(wholes.two_inputs(), tmp_path)


# ---- memory ----
class Counting(Memory):
    """Counts, and from a number of allocations on there is no more memory."""

    last: Counting
    left = 1 << 40

    def __init__(self) -> None:
        super().__init__()
        Counting.last = self

    def _alloc(self, ignored: int, size: int) -> int | None:
        self.left -= 1
        return super()._alloc(ignored, size) if self.left >= 0 else None


def test_a_session_gives_all_memory_back(mlp_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "Memory", Counting)
    session = open_bundle(mlp_folder)
    session.run(None, {"x": random(0, 9, 33)})
    assert Counting.last.held
    session.__del__()
    assert not Counting.last.held


def count_allocations(folder: Path, feeds: Mapping[str, wholes.Array]) -> int:
    open_bundle(folder).run(None, feeds)
    return (1 << 40) - Counting.last.left


def open_and_run(folder: Path, feeds: Mapping[str, wholes.Array], into: list[Session]) -> None:
    into.append(open_bundle(folder))
    into[0].run(None, feeds)


def test_every_allocation_may_fail(tmp_path: Path, monkeypatch) -> None:
    """Of a network of images, whose chain plans; stress.c does it for tokens."""
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, 64)
    model, feeds = build.build(layers, "4x1:0.8"), build.inputs(layers)
    build_bundle(made(model)[0], NATIVE, "model", tmp_path)
    (want,) = open_bundle(tmp_path).run(None, feeds)
    monkeypatch.setattr(run, "Memory", Counting)
    used = count_allocations(tmp_path, feeds)
    for at in range(used):
        monkeypatch.setattr(Counting, "left", at)
        sessions: list[Session] = []
        with pytest.raises(BackendError, match="not enough memory") as caught:
            open_and_run(tmp_path, feeds, sessions)
        assert "more memory" in str(caught.value.fix)
        for session in sessions:
            session.__del__()
        assert not Counting.last.held
    monkeypatch.setattr(Counting, "left", used)
    (got,) = open_bundle(tmp_path).run(None, feeds)
    np.testing.assert_array_equal(got, want)


# ---- functions from outside ----
LOOKUP = Extern("lookup", (Path(__file__).parent / "lookup.c").read_text())


def test_a_function_from_outside(tmp_path: Path) -> None:
    table = random(5, 11, 6)
    steps = (
        Step("extern", "embed", ("ids", "mask"), ("e",), ("table",), (0,)),
        Step("activation", "relu", ("e",), ("y",), (), (1,)),
    )
    inputs = Port("ids", "int64", ("n",)), Port("mask", "bool", ("m",))
    program = Program(("ids", "mask"), ("y",), steps)
    outputs = (Port("y", "float32", ("n", 6)),)
    session = opened(Whole(inputs, outputs, program, {"table": table}, (LOOKUP,)), tmp_path)
    ids, mask = np.array([3, 10, 0]), np.array([True, False, True])
    (got,) = session.run(None, {"ids": ids, "mask": mask})
    np.testing.assert_array_equal(got, np.maximum(table[ids] * mask[:, None], 0))
    assert [port.type for port in session.get_inputs()] == ["tensor(int64)", "tensor(bool)"]
    with pytest.raises(BackendError, match="layer 'embed': ids and mask differ in length"):
        session.run(None, {"ids": ids, "mask": mask[:2]})
    with pytest.raises(BackendError, match="layer 'embed': it failed"):
        session.run(None, {"ids": ids + 1, "mask": ~mask})
    with pytest.raises(BackendError, match="input 'mask' is uint8, the model takes bool"):
        session.run(None, {"ids": ids, "mask": mask.view(np.uint8)})


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    step = Step("extern", "f", ("x",), ("y",), (), (1,))
    ports = Port("x", "float32", (1,)), Port("y", "float32", (1,))
    whole = Whole(ports[:1], ports[1:], Program(("x",), ("y",), (step,)), {})
    with pytest.raises(BackendError, match="layer 'f': its function is not in this library"):
        opened(whole, tmp_path)


# ---- files ----
def test_the_same_bytes_twice(mlp_folder: Path, tmp_path: Path) -> None:
    again = build_bundle(wholes.MLP[0], NATIVE, "tiny", tmp_path)
    assert sorted(path.name for path in again) == sorted(p.name for p in tmp_path.iterdir())
    for path in again:
        assert path.read_bytes() == (mlp_folder / path.name).read_bytes(), path.name


BOTH = """
#include <stdlib.h>
#include "tiny.h"
#include "other.h"
static void *get(void *self, uint64_t bytes) { (void)self; return malloc(bytes); }
static void put(void *self, void *memory) { (void)self; free(memory); }
extern const unsigned char first[], second[];
int main(void)
{
  const tiny_host host = {get, put, 0, 0};
  const other_host same = {get, put, 0, 0};
  tiny_model *a;
  other_model *b;
  char message[256];
  return !(tiny_create(first, FIRST, &host, &a, message, 256) == 0 &&
           other_create(second, SECOND, &same, &b, message, 256) == 0 &&
           tiny_create(second, SECOND, &host, &a, message, 256) != 0);
}
"""
WEIGHTS = """
    .section .rodata
    .globl first, second
    .balign 64
first:
    .incbin "{}"
    .balign 64
second:
    .incbin "{}"
    .section .note.GNU-stack, "", @progbits
"""


@pytest.mark.parametrize("linking", ["static", "shared"])
def test_two_models_in_one_program(mlp_folder: Path, tmp_path: Path, linking: str) -> None:
    compiler = next(filter(None, map(shutil.which, ("gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no gcc or clang is installed")
    build_bundle(wholes.two_inputs(), NATIVE, "other", tmp_path)
    weights = mlp_folder / "weights.bin", tmp_path / "weights.bin"
    (tmp_path / "both.c").write_text(BOTH)
    (tmp_path / "weights.s").write_text(WEIGHTS.format(*weights))
    sizes = zip(("FIRST", "SECOND"), weights, strict=True)
    suffix = {"static": "a", "shared": "so"}[linking]
    command = [
        *(compiler, "both.c", "weights.s", "-Wall", "-Wextra", "-Werror"),
        *(f"-D{name}={path.stat().st_size}" for name, path in sizes),
        *(f"-I{folder}" for folder in (mlp_folder, tmp_path)),
        *(str(mlp_folder / f"libtiny.{suffix}"), str(tmp_path / f"libother.{suffix}")),
        *(f"-Wl,-rpath,{folder}" for folder in (mlp_folder, tmp_path)),
    ]
    done = subprocess.run(
        [*command, "-o", "both"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "both"], check=False).returncode == 0
