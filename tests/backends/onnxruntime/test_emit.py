"""The files of an artifact: what is written, when, and that they need onnxruntime alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.emit import emit
from sparsecc.backends.onnxruntime.lower import lower
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.backends.onnxruntime.save import save_model, weight_bytes
from sparsecc.capture import capture
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_sparse import replace_layer
from tests import small

FOREIGN = "arm64-linux"
RUN_LINES = 13

BLOCK_OTHERS = """
import importlib.abc, runpy, sys
OTHERS = ("sparsecc", "onnx", "onnx_ir", "onnxscript", "torch", "pydantic")
class Others(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS:
            raise ImportError(name)
sys.meta_path.insert(0, Others())
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def sparse_mlp() -> ir.Model:
    model = capture(small.mlp())
    for layer in find_layers(model).layers:
        replace_layer(layer, (4, 1))
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    lower(model)
    return model


def test_a_sparse_model_gets_a_library(tmp_path: Path) -> None:
    library = emit(sparse_mlp(), targets.get(FOREIGN), tmp_path)
    assert library == f"libsparsecc-{FOREIGN}.so"
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "run.py", library}
    script = (tmp_path / "run.py").read_text()
    assert f'here / "{library}"' in script
    assert len(script.splitlines()) <= RUN_LINES
    compile(script, "run.py", "exec")


def test_a_dense_model_gets_none(tmp_path: Path) -> None:
    model = capture(small.mlp())
    lower(model)
    assert emit(model, targets.get(FOREIGN), tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "run.py"}
    assert "register" not in (tmp_path / "run.py").read_text()


@pytest.mark.parametrize("sparse", [True, False])
def test_run_py_needs_onnxruntime_and_numpy_alone(tmp_path: Path, sparse: bool) -> None:
    target = targets.get("native")
    model = sparse_mlp() if sparse else capture(small.mlp())
    lower(model)
    (tmp_path / "artifact").mkdir()
    emit(model, target, tmp_path / "artifact")
    np.savez(tmp_path / "inputs.npz", x=small.tokens(0))
    command = [sys.executable, "-I", "-c", BLOCK_OTHERS, tmp_path / "artifact" / "run.py"]
    done = subprocess.run(
        [*command, "inputs.npz"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("y (32, 10) float32 [")
    stock = ort.InferenceSession(small.mlp().SerializeToString())
    first = stock.run(None, {"x": small.tokens(0)})[0].ravel()[:2]
    shown = done.stdout[done.stdout.index("[") + 1 :].split()[:2]
    np.testing.assert_allclose([float(number) for number in shown], first, rtol=1e-3)


def test_run_py_without_inputs_says_what_it_wants(tmp_path: Path) -> None:
    model = capture(small.mlp())
    lower(model)
    emit(model, targets.get("native"), tmp_path)
    command = [sys.executable, "-I", tmp_path / "run.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "usage: python run.py inputs.npz, with an array for each of x\n"


class TestSave:
    def test_small_weights_stay_inside(self, tmp_path: Path) -> None:
        model = capture(small.mlp())
        save_model(model, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
        assert weight_bytes(model) < (tmp_path / "model.onnx").stat().st_size

    def test_many_weights_go_beside_it(self, tmp_path: Path) -> None:
        save_model(
            capture(small.mlp()), tmp_path, inline_bytes=weight_bytes(capture(small.mlp())) - 1
        )
        assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
        assert (tmp_path / "model.onnx").stat().st_size < 20_000
        x = small.tokens(1)
        ours, theirs = (
            session.run(None, {"x": x})[0]
            for session in (
                open_session(tmp_path / "model.onnx"),
                open_session(small.mlp().SerializeToString()),
            )
        )
        np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("inline_bytes", [0, 1 << 20])
    @pytest.mark.parametrize("in_use", [False, True])
    def test_weights_of_the_users_files_are_copied(
        self, tmp_path: Path, inline_bytes: int, in_use: bool
    ) -> None:
        """In the main graph and in a branch, small and large, also while an array views them."""
        source = tmp_path / "user"
        source.mkdir()
        onnx.save(
            branching(),
            source / "m.onnx",
            save_as_external_data=True,
            location="w",
            size_threshold=0,
        )
        model = capture(source / "m.onnx")
        views = [v.const_value.numpy() for g in model.graphs() for v in g.initializers.values()]
        assert len(views) == 4
        if not in_use:
            views.clear()
        out = tmp_path / "out"
        out.mkdir()
        save_model(model, out, inline_bytes)
        for path in source.iterdir():
            path.unlink()
        x = np.ones((2, 64), np.float32)
        for positive in (True, False):
            feeds = {"x": x, "positive": np.array(positive)}
            ours = open_session(out / "model.onnx").run(None, feeds)[0]
            np.testing.assert_array_equal(
                ours, open_session(branching().SerializeToString()).run(None, feeds)[0]
            )


def branching() -> onnx.ModelProto:
    """A small and a large weight in the main graph and in a branch."""
    rng = np.random.default_rng(0)

    def weights(name: str) -> list[onnx.TensorProto]:
        arrays = {f"{name}.w": rng.random((64, 64)), f"{name}.b": rng.random(64)}
        return [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]

    def layer(name: str, source: str, target: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("MatMul", [source, f"{name}.w"], [f"{name}.a"], name),
            helper.make_node("Add", [f"{name}.a", f"{name}.b"], [target], f"{name}.bias"),
        ]

    def graph(nodes, name, inputs, target, held) -> onnx.GraphProto:
        info = helper.make_tensor_value_info(target, TensorProto.FLOAT, [2, 64])
        return helper.make_graph(nodes, name, inputs, [info], held)

    then = graph(layer("inner", "h", "t"), "then", [], "t", weights("inner"))
    other = graph([helper.make_node("Neg", ["h"], ["e"], "negated")], "else", [], "e", [])
    branch = helper.make_node("If", ["positive"], ["y"], "if", then_branch=then, else_branch=other)
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64]),
        helper.make_tensor_value_info("positive", TensorProto.BOOL, []),
    ]
    main = graph([*layer("outer", "x", "h"), branch], "main", inputs, "y", weights("outer"))
    return helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
