"""Each command on a real model: its result for people and for programs."""

import re
import shutil

import numpy as np
import onnx
import pytest

from sparsecc.artifact import open_artifact
from tests.passes.attention import planted

WIDTH = 80


def test_compile_prints_one_object(model, artifact, sparsecc, tmp_path):
    done = sparsecc("compile", model, "-o", tmp_path / "out", "--json")
    assert done.code == 0
    assert done.json.keys() >= {"artifact", "size_bytes", "quality", "report"}
    assert done.json["artifact"] == str(tmp_path / "out")
    assert done.json["size_bytes"] == sum(
        path.stat().st_size
        for path in (tmp_path / "out").iterdir()
        if path.name not in ("manifest.json", "report.html")
    )
    assert open_artifact(tmp_path / "out") == open_artifact(artifact)


def test_compile_for_people(model, process, tmp_path):
    done = process("compile", model, "-o", tmp_path / "out")
    assert done.code == 0
    assert done.err == ""
    assert "4x1" in done.out
    assert "faster" in done.out
    assert f"wrote {tmp_path / 'out'}" in done.out
    assert "\x1b" not in done.out


def test_compile_with_everything(model, sparsecc, tmp_path):
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(1).normal(size=(640, 64)).astype(np.float32))
    done = sparsecc(
        *("compile", model, "-o", tmp_path / "out", "--json", "--verify"),
        *("--target", "x86-64", "--sparsity", "unstructured:0.5", "--layer", "fc1=dense"),
        *("--calibration", data, "--score", "wanda", "--no-refit", "--allocation", "erk"),
    )
    assert done.code == 0, done.err
    plan = open_artifact(tmp_path / "out").plan
    assert plan["overrides"] == {"fc1": "dense"}
    assert plan["allocation"] == "erk"
    assert plan["target"] == "x86-64"
    assert done.json["report"]["target"] == "x86-64"


def test_blocks_of_attention_from_the_steps_of_an_npz(sparsecc, tmp_path):
    path, steps = tmp_path / "dit.onnx", tmp_path / "steps.npz"
    onnx.save(planted.plain(1), path)
    np.savez(steps, x=np.random.default_rng(0).standard_normal((5, 128, 32)).astype(np.float32))
    grid = ["--attention", planted.SMALL.spec, "--calibration", steps]
    result = sparsecc("compile", path, *grid, "-o", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    (entry,) = open_artifact(tmp_path / "out").plan["attention"]
    assert len(entry["samples"]) == 4  # one of five is held out
    assert {len(each) for each in entry["samples"]} == {len(entry["heads"])}


def test_a_library_by_itself_from_compile_to_package(model, sparsecc, tmp_path):
    out = tmp_path / "out"
    asked = ("--backend", "bundle", "--name", "tiny")
    done = sparsecc("compile", model, "-o", out, *asked, "--json")
    assert done.code == 0, done.err
    assert open_artifact(out).backend == "bundle"
    assert (out / "libtiny.so").is_file()
    assert sparsecc("verify", out, "--json").json["ok"]
    layers = sparsecc("inspect", out, "--json").json["layers"]
    assert layers == done.json["report"]["layers"]
    again = sparsecc("inspect", model, "--backend", "bundle", "--json").json["layers"]
    assert again == layers
    packed = sparsecc("package", out, "-o", tmp_path / "tiny.zip", "--json").json
    assert packed["bytes"] == (tmp_path / "tiny.zip").stat().st_size


def test_a_backend_that_a_target_has_not(model, sparsecc, tmp_path):
    done = sparsecc(
        "compile", model, "-o", tmp_path / "out", "--target", "wasm", "--backend", "tvm"
    )
    assert done.code == 6
    assert "no backend 'tvm' for wasm" in done.err


def test_a_guess_is_called_one(model, sparsecc, tmp_path):
    guessed = sparsecc("compile", model, "-o", tmp_path / "out", "--sparsity", "4x1:0.9")
    assert "no --calibration" in guessed.out
    exact = sparsecc("compile", model, "-o", tmp_path / "out")
    assert "no --calibration" not in exact.out


def test_compile_replaces_an_artifact(model, sparsecc, tmp_path):
    for spec in ("existing", "4x1:0.9"):
        assert sparsecc("compile", model, "-o", tmp_path / "out", "--sparsity", spec).code == 0
    assert open_artifact(tmp_path / "out").plan["spec"] == "4x1:0.9"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bench_prints_one_object(model, artifact, process):
    done = process("bench", artifact, "--baseline", model, "--seconds", 0.3, "--json")
    assert done.code == 0
    assert done.err == ""
    assert done.json.keys() >= {
        *("ours_ms", "baseline_ms", "ratio", "ratio_low", "ratio_high", "threads", "peak_rss_mb"),
    }
    assert done.json["baseline"] == str(model)
    assert done.json["threads"] == 1
    assert done.json["max_rel_difference"] < 1e-4


def test_bench_for_people(artifact, process):
    done = process("bench", artifact, "--seconds", 0.3, "--threads", 2)
    assert done.code == 0
    assert "artifact without its library" in done.out
    assert "2 threads each" in done.out
    assert re.search(r"\d\.\d\d×", done.out)


def test_bench_with_inputs(artifact, sparsecc, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.ones((128, 64), np.float32))
    done = sparsecc("bench", artifact, "--inputs", tmp_path / "in.npz", "--seconds", 0.1, "--json")
    assert done.code == 0


def test_verify(artifact, sparsecc):
    done = sparsecc("verify", artifact, "--json")
    assert done.code == 0
    assert done.json["ok"] is True
    assert 0 <= done.json["max_rel_error"] < 1e-4
    assert "masked-dense twin" in sparsecc("verify", artifact).out


def test_verify_fails_with_its_exit_code(artifact, sparsecc, monkeypatch):
    wrong = {"ok": False, "max_rel_error": float("inf")}
    monkeypatch.setattr(
        "sparsecc.verify.verify",
        lambda folder, progress: {**wrong, "checks": [{**wrong, "name": "twin"}]},
    )
    done = sparsecc("verify", artifact, "--json")
    assert done.code == 1
    assert done.json["ok"] is False
    assert done.json["max_rel_error"] is None
    assert "✗" in sparsecc("verify", artifact).out


def test_inspect_a_model(model, sparsecc):
    done = sparsecc("inspect", model, "--target", "x86-64", "--json")
    assert done.code == 0
    layers = {layer["name"]: layer for layer in done.json["layers"]}
    assert list(layers) == ["fc0", "fc1", "fc2"]
    assert layers["fc1"]["pattern"] == "4x1"
    assert layers["fc1"]["density"] == pytest.approx(0.1, abs=0.01)
    assert layers["fc1"].keys() >= {
        *("name", "op", "macs", "density", "pattern", "eligible", "why", "kernel", "est_ms"),
    }
    assert layers["fc1"]["kernel"] != "onnxruntime"
    assert layers["fc0"]["kernel"] == "matmul-dense"


def test_inspect_an_artifact(artifact, process):
    done = process("inspect", artifact)
    assert done.code == 0
    assert "1 sparse" in done.out
    assert max(map(len, done.out.splitlines())) <= WIDTH


def test_an_artifact_works_from_a_copy(artifact, sparsecc, tmp_path):
    shutil.copytree(artifact, tmp_path / "copy")
    assert sparsecc("verify", tmp_path / "copy").code == 0


def test_report_writes_a_file_of_the_form_asked_for(artifact, sparsecc, tmp_path):
    for name, start in (("r.html", "<!doctype html>"), ("r.md", "# artifact"), ("r.json", "{")):
        done = sparsecc("report", artifact, "-o", tmp_path / name)
        assert done.code == 0, done.err
        assert f"wrote {tmp_path / name}" in done.out
        assert (tmp_path / name).read_text().startswith(start)


def test_report_prints_one_object(artifact, sparsecc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = sparsecc("report", artifact, "--json")
    assert done.code == 0
    assert [layer["kind"] for layer in done.json["layers"]] == ["library", "sparse", "library"]
    assert list(tmp_path.iterdir()) == []
    assert sparsecc("report", artifact).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_report_into_the_artifact_is_refused(artifact, sparsecc):
    done = sparsecc("report", artifact, "-o", artifact / "report.html")
    assert done.code == 9
    assert sparsecc("verify", artifact).code == 0


def test_report_with_measured_times(model, artifact, process, tmp_path):
    args = ("--bench", "--baseline", model, "--seconds", 0.2, "--json")
    done = process("report", artifact, "-o", tmp_path / "r.md", *args)
    assert done.code == 0, done.err
    assert done.json["measured"]["whole"]["baseline"] == str(model)
    for layer in done.json["layers"]:
        assert layer["measured_ms"] > 0
        assert layer["measured_dense_ms"] > 0
    assert "measured dense" in (tmp_path / "r.md").read_text()


def test_report_says_what_needs_bench(model, artifact, sparsecc):
    done = sparsecc("report", artifact, "--json", "--baseline", model)
    assert done.code == 2
    assert "--bench" in done.err


def test_calibration_of_what_lies_on_the_disk_or_is_made_up(sparsecc, model, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(5):
        array = rng.standard_normal((128, 64)).astype(np.float32)
        np.save(tmp_path / "data" / f"{number}.npy", array)
    asked = ("compile", model, "--sparsity", "unstructured:0.3", "-o", tmp_path / "out")
    done = sparsecc(*asked, "--calibration", tmp_path / "data", "--json")
    assert done.code == 0, done.err
    with pytest.warns(UserWarning, match="generated inputs"):
        made_up = sparsecc(*asked, "--calibration", "generated", "--json")
    assert made_up.code == 0, made_up.err
    assert 0.5 < made_up.json["quality"]["cosine"] <= 1


@pytest.mark.parametrize("option", ["--tokenizer", "--preprocess"])
def test_options_of_data_that_need_none(sparsecc, model, tmp_path, option):
    out = ("-o", tmp_path / "out")
    alone = sparsecc("compile", model, *out, option, "file.json")
    assert alone.code == 4
    assert "give --calibration" in alone.err
    beside = sparsecc("compile", model, *out, "--calibration", "generated", option, "file.json")
    assert beside.code == 4
    assert "leave it out" in beside.err
