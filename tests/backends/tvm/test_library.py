"""The TVM library: stock TVM runs it, with our kernels inside and sizes open."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import sparsecc
from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.run import TvmSession
from sparsecc.errors import ModelError, SparseccError
from tests import small
from tests.backends.tvm import models

CLOSE = 1e-5
SIZES = ((1, 1), (2, 7), (3, 40))


def relative(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> sparsecc.Compiled:
    made = sparsecc.compile(models.pooled(), target="x86-64", backend="tvm", sparsity="existing")
    return sparsecc.load(made.save(tmp_path_factory.mktemp("tvm") / "artifact"))


@pytest.fixture(scope="module")
def reference() -> ort.InferenceSession:
    return ort.InferenceSession(models.pooled().SerializeToString())


@pytest.mark.parametrize(("batch", "tokens"), SIZES)
def test_any_size(
    compiled: sparsecc.Compiled, reference: ort.InferenceSession, batch: int, tokens: int
) -> None:
    feed = models.feed(batch, tokens)
    assert relative(compiled.run(feed)["y"], reference.run(None, feed)[0]) < CLOSE


def test_the_sparse_layers_are_one_region(compiled: sparsecc.Compiled) -> None:
    (region,) = compiled.manifest.regions
    assert {"up", "down"} <= set(region.nodes)
    assert compiled.manifest.numerics["max_rel_error"] < CLOSE
    assert set(compiled.manifest.files) == {"model.so", "report.html", "run.py"}


def test_stock_tvm_alone_runs_it(
    compiled: sparsecc.Compiled, reference: ort.InferenceSession, tmp_path: Path
) -> None:
    feed = models.feed(2, 7)
    np.savez(tmp_path / "in.npz", **feed)
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0]);"
        "assert not any(name.startswith('sparsecc') for name in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code, compiled.path / "run.py", tmp_path / "in.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers = np.array(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout), np.float64)
    assert done.stdout.startswith("y (2, 32) float32")
    np.testing.assert_allclose(numbers, reference.run(None, feed)[0].ravel()[:8], rtol=1e-4)


def test_machines_of_several_threads_share_a_region(
    compiled: sparsecc.Compiled, reference: ort.InferenceSession
) -> None:
    ends = compiled.manifest.inputs, compiled.manifest.outputs
    machines = [TvmSession(compiled.path / "model.so", *ends) for _ in range(4)]
    feeds = [models.feed(2, 3 + at, at) for at in range(4)]
    wanted = [reference.run(None, feed)[0] for feed in feeds]

    def runs(at: int) -> float:
        return max(relative(machines[at].run(None, feeds[at])[0], wanted[at]) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(runs, range(4))) < CLOSE


def test_a_wrong_input_is_refused(compiled: sparsecc.Compiled) -> None:
    good = models.feed(2, 3)
    with pytest.raises(ModelError, match="'ids' is float32"):
        compiled.session.run(None, {**good, "ids": good["ids"].astype(np.float32)})
    with pytest.raises(ModelError):
        compiled.session.run(None, {**good, "mask": good["mask"][:, :2]})
    with pytest.raises(ModelError, match="got the inputs"):
        compiled.session.run(None, {"ids": good["ids"]})


def test_a_region_tells_tvm_what_is_wrong(compiled: sparsecc.Compiled) -> None:
    tvm = load()
    module = tvm.runtime.load_module(str(compiled.path / "model.so"))
    region = module.get_function("model_region0", query_imports=True)
    tensors = [tvm.runtime.tensor(np.zeros((2, 3, width), np.float32)) for width in (31, 32)]
    with pytest.raises(RuntimeError, match="'x' has shape"):
        region(*tensors)
    with pytest.raises(RuntimeError, match="another number of tensors"):
        region(tensors[0])


def two_lengths() -> onnx.ModelProto:
    """A sum that has a meaning where two open sizes are equal."""
    nodes = [
        helper.make_node("Add", ["x", "y"], ["s"], "sum"),
        helper.make_node("Exp", ["s"], ["z"]),
    ]
    rows = {"x": ["n", 4], "y": ["m", 4]}
    inputs = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, dims) for key, dims in rows.items()
    ]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "lengths", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("backend", ["tvm", "bundle"])
def test_sizes_that_nothing_proves_equal_are_checked(backend: str) -> None:
    session = sparsecc.compile(two_lengths(), target="x86-64", backend=backend).session
    x, y = (np.float32(np.random.default_rng(at).standard_normal((5, 4))) for at in range(2))
    assert relative(session.run(None, {"x": x, "y": y})[0], np.exp(x + y)) < CLOSE
    with pytest.raises(SparseccError, match="sizes of the inputs do not agree"):
        session.run(None, {"x": x, "y": y[:3]})


def test_a_model_without_zeros_runs_in_our_kernels_too() -> None:
    model, image = small.mobilenet(), small.image(0)
    made = sparsecc.compile(model, target="x86-64", backend="tvm", sparsity="existing")
    session = ort.InferenceSession(model.SerializeToString())
    name = session.get_inputs()[0].name
    got = made.session.run(None, {name: image})[0]
    assert relative(got, session.run(None, {name: image})[0]) < CLOSE


def test_the_same_model_gives_the_same_bytes(compiled: sparsecc.Compiled) -> None:
    again = sparsecc.compile(models.pooled(), target="x86-64", backend="tvm", sparsity="existing")
    assert again.manifest.files == compiled.manifest.files
