"""Artifacts without ONNX Runtime: made, called, saved, checked, measured and reported as others."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import sparsecc
from sparsecc import manifest as manifests
from sparsecc import targets
from sparsecc.backends.bundle import emulated
from sparsecc.bench import compare
from sparsecc.engines import why_not_here
from sparsecc.errors import ArtifactError, BackendError, ModelError, TargetError
from sparsecc.inspection import inspect
from sparsecc.report import Report
from sparsecc.verify import verify
from tests import small

TOLERANCE = 1e-5
LAYERS = ["fc1", "fc2", "head"]


@pytest.fixture(scope="module")
def compiled() -> sparsecc.Compiled:
    return sparsecc.compile(small.mlp("n"), sparsity="4x1:0.8", backend="bundle", name="tiny")


@pytest.fixture(scope="module")
def saved(compiled: sparsecc.Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.save(tmp_path_factory.mktemp("bundle") / "out")


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_it_computes_what_onnx_runtimes_artifact_does(saved: Path, rows: int) -> None:
    x = small.tokens(rows, rows)
    ours = sparsecc.load(saved)(x)
    theirs = sparsecc.compile(small.mlp("n"), sparsity="4x1:0.8")(x)
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def test_its_program_can_be_run(saved: Path) -> None:
    if not (saved / "tiny").exists():
        pytest.skip("there are programs for Linux only")
    done = subprocess.run([saved / "tiny"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: " in done.stderr


def test_the_manifest_says_what_it_is(compiled: sparsecc.Compiled) -> None:
    made = compiled.manifest
    assert (made.backend, made.has_model, made.library, made.name) == (
        "bundle",
        False,
        None,
        "tiny",
    )
    assert {"libtiny.so", "libtiny.a", "tiny.h", "weights.bin", "report.html"} <= set(made.files)
    assert [(port.name, port.dims[0]) for port in (*made.inputs, *made.outputs)] == [
        ("x", "n"),
        ("y", "n"),
    ]
    assert 0 < made.numerics["max_rel_error"] <= TOLERANCE
    assert (made.not_run, len(made.reference), made.plan["backend"]) == ("", 1, "bundle")
    (region,) = made.regions
    assert (region.op_type, list(region.nodes)) == ("Whole", LAYERS)
    assert {node.region for node in made.nodes_after} == {"Whole"}


def test_it_is_verified_against_what_was_recorded(saved: Path, tmp_path: Path) -> None:
    result = verify(saved)
    assert result["ok"]
    assert [check["name"] for check in result["checks"]] == ["masked-dense twin, as recorded"]
    copy = shutil.copytree(saved, tmp_path / "copy")
    data = json.loads((copy / "manifest.json").read_bytes())
    data["reference"][0]["values"][0] += data["reference"][0]["scale"]
    (copy / "manifest.json").write_text(json.dumps(data))
    assert not verify(copy)["ok"]
    (copy / "weights.bin").write_bytes((copy / "weights.bin").read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"weights\.bin was altered"):
        verify(copy)


def test_the_report_speaks_of_no_onnx_runtime(saved: Path, compiled: sparsecc.Compiled) -> None:
    page = (saved / "report.html").read_text()
    assert "ONNX Runtime" not in page
    assert "3 of 3 nodes in 1 region" in " ".join(str(compiled.report).split())
    assert Report.from_manifest(compiled.manifest).regions == [LAYERS]
    assert [row.name for row in inspect(saved)] == LAYERS


def test_wrong_inputs_are_refused_by_name(saved: Path) -> None:
    model = sparsecc.load(saved)
    for bad in (small.tokens(0)[:, :-1], small.tokens(0).astype(np.float64), small.tokens(0)[0]):
        with pytest.raises(ModelError, match="x"):
            model.run({"x": bad})
    assert model(small.tokens(0)).shape[0] == len(small.tokens(0))


def test_it_is_measured_beside_a_model(saved: Path, tmp_path: Path) -> None:
    onnx.save(small.mlp("n"), tmp_path / "dense.onnx")
    result = compare(saved, tmp_path / "dense.onnx", seconds=0.2)
    assert result.ours_ms > 0
    with pytest.raises(ModelError, match="no model"):
        compare(saved, seconds=0.2)
    with pytest.raises(BackendError, match="one thread"):
        compare(saved, tmp_path / "dense.onnx", threads=2, seconds=0.2)


def test_two_compilations_give_the_same_bytes(compiled: sparsecc.Compiled) -> None:
    again = sparsecc.compile(small.mlp("n"), sparsity="4x1:0.8", backend="bundle", name="tiny")
    assert manifests.files_of(again.path) == manifests.files_of(compiled.path)


def test_its_plan_makes_it_again(compiled: sparsecc.Compiled) -> None:
    again = sparsecc.apply(small.mlp("n"), compiled.plan, name="tiny")
    assert again.manifest.backend == "bundle"
    weights = "weights.bin"
    assert again.manifest.files[weights] == compiled.manifest.files[weights]


def test_a_dense_model_is_our_kernels_alone() -> None:
    rows = inspect(small.mlp("n"), backend="bundle")
    assert [row.kernel for row in rows] == ["matmul-dense"] * len(LAYERS)
    assert all(row.est_ms == row.dense_ms and not row.is_sparse for row in rows)
    images = inspect(small.mobilenet(), backend="bundle")
    assert {row.kernel for row in images} == {"conv-dense", "conv-depthwise", "matmul-dense"}


def test_dense_is_another_kernel_where_there_is_no_onnx_runtime() -> None:
    theirs, ours = (
        {row.name: row for row in inspect(small.mobilenet("4x1:0.8"), "x86-64", backend)}
        for backend in (None, "bundle")
    )
    assert any(row.dense_ms != theirs[name].dense_ms for name, row in ours.items())
    web = inspect(small.mobilenet("4x1:0.8"), "wasm")
    assert all(row.kernel != "onnxruntime" for row in web)
    assert any(row.is_sparse and row.est_ms < row.dense_ms for row in web)


def test_sparse_loses_where_it_does_not_pay() -> None:
    for row in inspect(small.mobilenet("unstructured:0.12"), "wasm"):
        assert not row.is_sparse or row.est_ms < row.dense_ms


def test_a_backend_that_a_target_has_not_is_refused() -> None:
    for target, backend in (("wasm", "tvm"), ("wasm", "onnxruntime"), ("x86-64", "web")):
        with pytest.raises(TargetError, match=backend) as caught:
            inspect(small.mlp(), target, backend)
        assert caught.value.fix


ELSEWHERE = {
    "wasm": ({}, {"max_rel_error", "max_rel_error_relaxed"}),
    "arm64-linux": ({"backend": "bundle"}, {"max_rel_error"}),
}


@pytest.mark.parametrize("target", ELSEWHERE)
def test_what_runs_elsewhere_is_run_by_an_engine_of_it(target: str, tmp_path: Path) -> None:
    options, measured = ELSEWHERE[target]
    if why := why_not_here(targets.TARGETS[target]):
        pytest.skip(why)
    made = sparsecc.compile(small.mlp("n"), target, sparsity="4x1:0.8", **options)
    numerics = made.manifest.numerics
    assert set(numerics) == measured
    assert max(numerics.values()) <= TOLERANCE
    out = made.save(tmp_path / "out")
    result = verify(out)
    assert result["ok"]
    assert len(result["checks"]) == len(measured)
    x = small.tokens(0, 3)
    theirs = sparsecc.compile(small.mlp("n"), sparsity="4x1:0.8")(x)
    np.testing.assert_allclose(sparsecc.load(out)(x), theirs, atol=1e-5 * np.abs(theirs).max())
    with pytest.raises(ModelError, match="x"):
        sparsecc.load(out).run({"x": x[:, :-1]})


def test_a_folder_for_the_web_can_be_published(tmp_path: Path) -> None:
    made = sparsecc.compile(small.mobilenet("4x1:0.8"), "wasm", name="tiny")
    wanted = {"model.wasm", "model.relaxed.wasm", "index.js", "index.d.ts", "package.json"}
    assert wanted | {"weights.bin", "demo/index.html", "demo/dense.onnx"} <= set(
        made.manifest.files
    )
    out = made.save(tmp_path / "out")
    assert made.save(out) == out  # over itself, folders below included
    assert made.size_bytes < sum(entry.bytes for entry in made.manifest.files.values())
    assert verify(out)["ok"]


def test_an_emulator_says_nothing_of_time(tmp_path: Path) -> None:
    onnx.save(small.mlp("n"), tmp_path / "dense.onnx")
    made = sparsecc.compile(small.mlp("n"), "arm64-linux", backend="bundle")
    with pytest.raises(TargetError, match="cannot be measured here"):
        compare(made.path, tmp_path / "dense.onnx", seconds=0.2)


def test_what_nothing_runs_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "EMULATORS", {})
    made = sparsecc.compile(small.mlp(), "arm64-linux", backend="bundle", sparsity="4x1:0.8")
    assert made.manifest.numerics == {}
    assert "arm64-linux" in made.manifest.not_run
    assert made.quality["cosine"] > 0  # of the twin, which computes the same
    with pytest.raises(TargetError, match="arm64-linux"):
        made(small.tokens(0))
