"""Tuning on the real TVM: what is found, kept, taken again, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.objects import machine, object_of
from sparsecc.backends.tvm.tuning import file
from sparsecc.backends.tvm.tuning.process import LostError, Worker
from sparsecc.errors import PlanError, TargetError, TuningError
from sparsecc.manifest import TUNING_NAME
from sparsecc.targets import get
from tests.backends.tvm.test_library import CLOSE, relative

CHANNELS, SIDE = 16, 96


def normalized(size: Any = SIDE) -> onnx.ModelProto:
    """An InstanceNormalization, which the library has no step for."""
    rng = np.random.default_rng(3)
    node = helper.make_node("InstanceNormalization", ["x", "a", "b"], ["y"], "norm")
    values = [numpy_helper.from_array(np.float32(rng.random(CHANNELS)), name) for name in "ab"]
    shape = [1, CHANNELS, size, size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([node], "normalized", ends[:1], ends[1:], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "tuning"


def is_right(made: Any) -> bool:
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    want = ort.InferenceSession(normalized().SerializeToString()).run(None, {"x": x})[0]
    return bool(relative(made.session.run(None, {"x": x})[0], want) < CLOSE)


@pytest.mark.parametrize("backend", ["bundle", "tvm"])
def test_what_was_found_is_taken_again_to_the_same_bytes(
    backend: str, own_cache: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    first = sparsecc.compile(
        normalized(),
        backend=backend,
        tune="16 steps",
        progress=lambda step, share: told.append(step),
    )
    assert is_right(first)
    assert any(step.startswith("tuning ") and "tried)" in step for step in told)
    (database,) = own_cache.glob("*.json")
    kept = database.read_bytes()
    first.save(tmp_path / "first")
    entries = json.loads((tmp_path / "first" / TUNING_NAME).read_text())["entries"]
    assert entries
    for entry in entries:
        taken = entry["trace"] is not None
        assert taken == (entry["tuned_ms"] is not None and entry["tuned_ms"] <= entry["direct_ms"])

    sparsecc.compile(normalized(), backend=backend, tune="16 steps").save(tmp_path / "again")
    artifact = str(tmp_path / "first" / TUNING_NAME)
    sparsecc.compile(normalized(), backend=backend, tune=artifact).save(tmp_path / "from-artifact")
    assert database.read_bytes() == kept
    for other in ("again", "from-artifact"):
        for name in sorted(each.name for each in (tmp_path / "first").iterdir() if each.is_file()):
            assert (tmp_path / other / name).read_bytes() == (
                tmp_path / "first" / name
            ).read_bytes()


def test_open_sizes_stay_direct_and_say_so() -> None:
    made = sparsecc.compile(normalized("side"), backend="bundle", tune="5s")
    assert is_right(made)
    reasons = [each.reason for each in made.manifest.refusals if each.pass_name == "tune"]
    assert any("sizes are open" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"backend": "onnxruntime", "tune": "5min"}, TargetError, "ONNX Runtime"),
        ({"target": "arm64-linux", "backend": "bundle", "tune": "5min"}, TargetError, "timed"),
        ({"target": "wasm", "tune": "5min"}, TargetError, "timed"),
        ({"backend": "bundle", "tune": "soon"}, PlanError, "effort"),
        ({"backend": "bundle", "tune": "1s"}, TuningError, "too little"),
        ({"backend": "bundle", "tune": "nowhere.json"}, TuningError, "cannot read"),
    ],
)
def test_what_cannot_be_tuned(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        sparsecc.compile(normalized(), **options)


STEP: list[Any] = ["GetSBlock", [], ["root", "main"], ["b0"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 99}, "format"),
        ({"target": "arm64-linux"}, "tuned for"),
        ({"entries": [{"key": "x"}]}, "key"),
        ({"trace": [[["UnsafeSetDType", [], [], []]], []]}, "no step"),
        ({"trace": [[["Annotate", ["b0"], ["pragma_import_llvm"], []]], []]}, "not allowed"),
        ({"trace": [[STEP] * (file.MOST_STEPS + 1), []]}, "more than"),
        ({"trace": [STEP]}, "trace"),
    ],
)
def test_a_foreign_database_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    entry = {"key": "0" * 64, "name": "f", "direct_ms": 1.0, "tuned_ms": 0.5, "tried": 1}
    content: dict[str, Any] = {"format": 1, "target": "x86-64-v4", "processor": "", "entries": []}
    if "trace" in change:
        content["entries"] = [entry | change]
    else:
        content |= change
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TuningError, match=says):
        file.read(path, get("x86-64-v4"))


def test_a_schedule_of_another_function_is_an_error(own_cache: Path, tmp_path: Path) -> None:
    made = sparsecc.compile(normalized(), backend="bundle", tune="1 step")
    made.save(tmp_path / "out")
    path = tmp_path / "out" / TUNING_NAME
    content = json.loads(path.read_text())
    for entry in content["entries"]:
        entry["trace"] = [[["GetSBlock", [], ["no_such", "main"], ["b0"]]], []]
    path.write_text(json.dumps(content))
    with pytest.raises(TuningError, match="wrong about"):
        sparsecc.compile(normalized(), backend="bundle", tune=str(path))


def test_a_process_that_ends_is_lost_and_the_next_is_another() -> None:
    with Worker() as worker:
        answers = worker.answers({"no": "job"}, 1e12)
        next(answers)
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(LostError, match="crashed"):
            list(worker.answers({"no": "job"}, 1e12))
        assert [each for each in worker.answers({"no": "job"}, 1e12) if "failed" in each]


def test_a_kernel_keeps_little_on_the_stack() -> None:
    tvm = load()
    x = tvm.te.placeholder((8,), "float32", "x")
    wide = tvm.te.compute((1 << 16,), lambda i: x[i % 8], name="wide")
    y = tvm.te.compute((8,), lambda i: wide[i * 64], name="y")
    function = tvm.te.create_prim_func([x, y])
    target = get("x86-64-v3")
    with pytest.raises(sparsecc.errors.BackendError, match="on the stack"):
        object_of({"f": function}, machine(target))
