"""The worker's conversation, and what becomes of a worker that dies."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsecc.bench import worker
from sparsecc.bench.process import Worker
from sparsecc.bench.turns import take_turns
from sparsecc.errors import BackendError


@pytest.fixture
def job(write_model, tmp_path) -> worker.Job:
    np.savez(tmp_path / "in.npz", np.ones((2, 64), np.float32))
    return worker.Job(
        model=str(write_model(tmp_path / "model.onnx")),
        library=None,
        threads=1,
        names=["x"],
        inputs=str(tmp_path / "in.npz"),
        outputs=str(tmp_path / "out.npz"),
    )


def talk(*messages: object) -> list[dict]:
    """What a worker answers to these messages."""
    answers = io.StringIO()
    worker.serve(io.StringIO("".join(json.dumps(m) + "\n" for m in messages)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_conversation(job):
    ready, three, end = talk(job, {"runs": 3}, {})
    assert ready == {"outputs": ["y"]}
    assert len(three["ms"]) == 3
    assert all(ms > 0 for ms in three["ms"])
    assert end["peak_rss_mb"] > 10
    with np.load(job["outputs"]) as outputs:
        assert outputs["arr_0"].shape == (2, 64)


@pytest.mark.parametrize("change", [{"model": "nowhere.onnx"}, {"library": "nowhere.so"}])
def test_a_mistake_is_the_answer(job, change):
    (answer,) = talk({**job, **change})
    assert "nowhere" in answer["error"]


def test_it_needs_nothing_but_numpy_and_onnxruntime():
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='worker')\n"
        "print({name.partition('.')[0] for name in sys.modules}"
        " & {'sparsecc', 'onnx', 'onnx_ir', 'torch', 'scipy', 'rich', 'typer'})"
    )
    path = Path(worker.__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_what_a_library_prints_is_no_answer(job, monkeypatch, tmp_path):
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import runpy, sys, onnxruntime\n"
        "load = onnxruntime.InferenceSession\n"
        "onnxruntime.InferenceSession = lambda *a, **k: (print('hello'), load(*a, **k))[1]\n"
        f"runpy.run_path({worker.__file__!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr("sparsecc.bench.process._WORKER", noisy)
    with Worker("model", job) as running:
        assert len(running.time(2)) == 2


def test_a_process_that_dies_tells_its_last_words(job, monkeypatch, tmp_path):
    dying = tmp_path / "dying.py"
    dying.write_text("import sys; sys.exit('out of memory')")
    monkeypatch.setattr("sparsecc.bench.process._WORKER", dying)
    with pytest.raises(BackendError, match=r"(?s)model: .*code 1.*out of memory"):
        Worker("model", job)


OTHER = """
import time

def open_side(job, feeds):
    assert "onnxruntime" not in __import__("sys").modules
    time.sleep(job["settings"]["delay"])
    return lambda: 3 * feeds["x"], lambda result: {"tripled": result}
"""


def test_another_runtime_takes_the_place_of_onnx_runtime(job, tmp_path):
    runtime = tmp_path / "other.py"
    runtime.write_text(OTHER)
    job["settings"] = {"delay": 0}
    with Worker("other", job, runtime=runtime) as running:
        assert (running.outputs["tripled"] == 3).all()
        assert len(running.time(2)) == 2
        assert len(running.cores) == 1


def test_a_process_that_takes_too_long_to_open_is_ended(job, tmp_path):
    runtime = tmp_path / "other.py"
    runtime.write_text(OTHER)
    job["settings"] = {"delay": 60}
    with pytest.raises(BackendError, match=r"other: .*code -9"):
        Worker("other", job, runtime=runtime, limit_s=1.0)


def test_three_sides_take_turns(job):
    with Worker("a", job) as a, Worker("b", job) as b, Worker("c", job) as c:
        rounds = list(take_turns([a, b, c], 0.1))
    assert len(rounds) >= 3
    assert all(len(turns) == 3 and all(turns) for turns in rounds)
