"""Op by op: what TVM generates against ONNX Runtime, sizes open, on this processor."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from sparsecc import targets
from sparsecc.backends.tvm.externs import Leftovers, externs_of
from sparsecc.backends.tvm.objects import KERNELS
from tests.backends.tvm import chains
from tests.backends.tvm.cases import CASES, Case, model_of

RELATIVE = 2e-6
"""Largest error of float32, of the largest number of an output."""


@dataclass(frozen=True)
class Built:
    model: ir.Model
    left: Leftovers
    library: ctypes.CDLL
    values: Mapping[str, chains.Array]
    wanted: Mapping[str, chains.Array]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All cases as one model, once."""
    model, target = model_of(CASES), targets.get("x86-64-v3")
    left = externs_of(model, [], list(model.graph), target)
    library = chains.build(left, target, tmp_path_factory.mktemp("chains"))
    feed = {name: array for case in CASES for name, array in case.feed().items()}
    proto = ir.serde.serialize_model(model).SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    names = [str(value.name) for value in model.graph.outputs]
    results = ort.InferenceSession(proto, options).run(None, feed)
    wanted = dict(zip(names, map(np.asarray, results), strict=True))
    return Built(model, left, library, chains.run(library, model, left, feed), wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_what_onnxruntime_computes(built: Built, case: Case) -> None:
    for name in case.outputs:
        got, wanted = (values[f"{case.name}.{name}"] for values in (built.values, built.wanted))
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        if wanted.dtype.kind == "f":
            assert np.abs(got - wanted).max() <= RELATIVE * np.abs(wanted).max()
        else:
            np.testing.assert_array_equal(got, wanted)


def test_no_hot_loop_is_left_without_a_schedule(built: Built) -> None:
    assert built.left.notes == ()


def test_sizes_that_contradict_each_other_are_refused(built: Built) -> None:
    feed = {
        "add.x": np.zeros((2, 5, 4), np.float32),
        "add.y": np.zeros((6, 1), np.float32),
    }
    with pytest.raises(chains.RefusedError, match="sizes of the inputs do not agree"):
        chains.run(built.library, built.model, built.left, feed)


def test_positions_outside_of_a_table_read_nothing_foreign(built: Built) -> None:
    feed = {"gather.x": np.array([[99, -99, 10, -11, 3]] * 2)}
    rows = chains.run(built.library, built.model, built.left, feed)["gather.o"]
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    np.testing.assert_array_equal(rows[0], table[[9, 0, 9, 0, 3]])


MAGIC = {
    "arm64-linux": b"\x7fELF",
    "arm64-android": b"\x7fELF",
    "arm64-ios": b"\xcf\xfa\xed\xfe",
    "arm64-macos": b"\xcf\xfa\xed\xfe",
    "x86-64-windows": b"d\x86",
    "wasm": b"\0asm",
    "wasm-relaxed": b"\0asm",
}


@pytest.mark.parametrize("name", list(MAGIC))
def test_objects_are_of_the_target(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = model_of([case for case in CASES if case.name in ("softmax", "cos")])
    objects = externs_of(model, [], list(model.graph), targets.get(name)).objects
    assert all(content.startswith(MAGIC[name]) for content in objects.values())
    assert all(b"memset" not in content for content in objects.values())
    assert capfd.readouterr().err == ""


def test_the_same_model_gives_the_same_bytes() -> None:
    names = ("softmax", "mean", "heads", "embedding", "conv", "topk")
    cases = [case for case in CASES if case.name in names]
    made = []
    for _ in range(2):
        model = model_of(cases)
        made.append(externs_of(model, [], list(model.graph), targets.get("x86-64-v3")))
    assert made[0].objects == made[1].objects
    assert made[0].externs == made[1].externs


def test_the_object_needs_no_library(built: Built, tmp_path: Path) -> None:
    (tmp_path / "kernels.o").write_bytes(built.left.objects[KERNELS])
    listed = subprocess.run(
        ["nm", "--undefined-only", tmp_path / "kernels.o"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert not names
