"""Mistakes: one line, the way out, the documented exit code, nothing half-written."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sparsecc.cli.command import INTERNAL_ERROR


@pytest.fixture
def refused(sparsecc, tmp_path):
    """Runs a command that must fail, with and without ``--json``; returns the error's data."""

    def check(code: int, *args: object) -> dict[str, object]:
        before = sorted(tmp_path.rglob("*"))
        for_people = sparsecc(*args)
        for_programs = sparsecc(*args, "--json")
        assert for_people.code == for_programs.code == code, for_people.err
        assert for_people.out == ""
        assert "Traceback" not in for_people.err
        assert for_people.err.startswith("error: ")
        error = for_programs.json["error"]
        assert error.keys() == {"type", "message", "node", "fix", "exit_code"}
        assert error["exit_code"] == code
        assert error["message"] in for_people.err
        assert error["fix"] in for_people.err
        assert sorted(tmp_path.rglob("*")) == before
        return error

    return check


@pytest.mark.parametrize("command", ["compile", "inspect"])
@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_model_that_is_none(refused, tmp_path, command, content):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    out = ["-o", tmp_path / "out"] if command == "compile" else []
    error = refused(3, command, path, *out)
    assert error["type"] == "ModelError"
    assert str(path) in error["message"]


@pytest.mark.parametrize(
    ("grid", "code", "said"),
    [
        ("16x24", 5, "no grid of tokens"),
        ("2x2x2", 4, "there are none"),
    ],
)
def test_attention_that_cannot_be_searched(refused, model, tmp_path, grid, code, said):
    error = refused(code, "compile", model, "-o", tmp_path / "out", "--attention", grid)
    assert said in error["message"]


def test_a_truncated_model(refused, model, tmp_path):
    path = tmp_path / "truncated.onnx"
    path.write_bytes(model.read_bytes()[:-1000])
    assert "truncated.onnx" in refused(3, "compile", path, "-o", tmp_path / "out")["message"]


@pytest.mark.parametrize("spec", ["", "4x", "4x1:1.5", "5x1:0.5", "lots", "3:2"])
def test_an_impossible_sparsity(refused, model, tmp_path, spec):
    error = refused(5, "compile", model, "-o", tmp_path / "out", "--sparsity", spec)
    assert error["type"] == "PlanError"
    refused(5, "compile", model, "-o", tmp_path / "out", "--layer", f"fc1={spec or 'x'}")


def test_a_layer_that_is_not_there(refused, model, tmp_path):
    error = refused(5, "compile", model, "-o", tmp_path / "out", "--layer", "nothing*=dense")
    assert "nothing*" in error["message"]


def test_an_unknown_target(refused, model, tmp_path):
    error = refused(6, "compile", model, "-o", tmp_path / "out", "--target", "z80")
    assert "z80" in error["message"]
    refused(6, "inspect", model, "--target", "z80")


@pytest.mark.parametrize(
    "arrays",
    [
        {"wrong": np.zeros((128, 64), np.float32)},
        {"x": np.zeros((128, 63), np.float32)},
        {"x": np.zeros((128, 64))},
        {"x": np.zeros((0, 64), np.float32)},
        None,
    ],
)
def test_calibration_that_does_not_fit(refused, model, tmp_path, arrays):
    path = tmp_path / "data.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    refused(4, "compile", model, "-o", tmp_path / "out", "--calibration", path)


def test_a_folder_of_somebody_else_is_left_alone(refused, model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    error = refused(7, "compile", model, "-o", tmp_path / "thesis")
    assert "thesis" in error["message"]


def test_an_output_that_cannot_be_written(refused, model, tmp_path):
    (tmp_path / "file").write_text("")
    refused(7, "compile", model, "-o", tmp_path / "file" / "out")
    refused(7, "compile", model, "-o", tmp_path / "file")


@pytest.mark.parametrize("command", ["bench", "verify", "inspect"])
def test_a_tampered_artifact(refused, artifact, tmp_path, command):
    copy = shutil.copytree(artifact, tmp_path / "copy")
    library = next(copy.glob("*.so"))
    library.write_bytes(library.read_bytes()[:-1] + b"!")
    assert library.name in refused(7, command, copy)["message"]


@pytest.mark.parametrize("command", ["bench", "verify"])
def test_a_folder_that_is_no_artifact(refused, tmp_path, command):
    assert "not a sparsecc artifact" in refused(7, command, tmp_path)["message"]


def test_a_baseline_with_other_inputs(refused, artifact, tmp_path):
    path = tmp_path / "nowhere.onnx"
    assert "nowhere.onnx" in refused(3, "bench", artifact, "--baseline", path)["message"]


@pytest.mark.parametrize(
    "args",
    [
        ["compile"],
        ["compile", "m.onnx"],
        ["compile", "m.onnx", "-o", "out", "--layer", "no-setting"],
        ["compile", "m.onnx", "-o", "out", "--score", "luck"],
        ["bench", "out", "--threads", "0"],
        ["bench", "out", "--seconds", "0"],
        ["dance"],
    ],
)
def test_a_wrong_command_line(sparsecc, args):
    done = sparsecc(*args)
    assert done.code == 2
    assert done.out == ""
    assert "Usage" in done.err


def test_a_bug_is_called_one(sparsecc, artifact, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr("sparsecc.verify.verify", broken)
    done = sparsecc("verify", artifact, "--json")
    assert done.code == INTERNAL_ERROR
    assert done.json["error"]["type"] == "InternalError"
    assert "ZeroDivisionError: seven" in done.err
    assert "please report" in done.err


def test_a_process_prints_no_traceback_and_no_colours(process, tmp_path):
    done = process("inspect", tmp_path / "nowhere.onnx")
    assert done.code == 3
    assert done.out == ""
    error, fix = done.err.splitlines()
    assert error.startswith(f"error: {tmp_path / 'nowhere.onnx'}")
    assert fix.startswith("  fix: ")


def test_a_hostile_name_is_shown_not_obeyed(process, tmp_path):
    done = process("inspect", tmp_path / "[red]\x1b[2J.onnx")
    assert "\x1b" not in done.err
    assert "[red]�[2J.onnx" in done.err


def test_a_terminal_without_unicode(artifact):
    done = subprocess.run(
        [sys.executable, "-m", "sparsecc.cli", "inspect", artifact],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert b"1 sparse" in done.stdout
