"""Without its library an artifact is an ONNX model that any runtime since 1.20 computes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import sparsecc
from sparsecc.capture import capture
from tests import small
from tests.runtimes import OLD_RUNTIME

TOLERANCE = 1e-4
SETTING = "4x1:0.8"

RUN = """
import sys, numpy, onnxruntime
assert onnxruntime.__version__ == "{version}", onnxruntime.__version__
model, inputs, outputs = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
numpy.savez(outputs, *session.run(None, dict(numpy.load(inputs))))
"""


def conv_net() -> tuple[sparsecc.Compiled, dict[str, np.ndarray]]:
    compiled = sparsecc.compile(small.mobilenet(), sparsity=SETTING)
    return compiled, {"image": small.image(0)}


def linear_net() -> tuple[sparsecc.Compiled, dict[str, np.ndarray]]:
    return sparsecc.compile(small.mlp("n"), sparsity=SETTING), {"x": small.tokens(0, 5)}


def torch_encoder() -> tuple[sparsecc.Compiled, dict[str, np.ndarray]]:
    """Captured at the newest opset of torch's exporter, with attention in one op."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        """One transformer layer of 4 heads over [batch, tokens, 64]."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(64)
            self.qkv, self.out = torch.nn.Linear(64, 192), torch.nn.Linear(64, 64)
            self.up, self.down = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)

        def forward(self, x):  # type: ignore[no-untyped-def]
            heads = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
            mixed = torch.nn.functional.scaled_dot_product_attention(*heads.unbind(0))
            x = x + self.out(mixed.transpose(1, 2).flatten(2))
            return x + self.down(torch.nn.functional.gelu(self.up(x)))

    x = torch.randn(2, 128, 64)
    captured = capture(Encoder().eval(), (x,))
    assert captured.opset_imports[""] >= 23
    assert "Attention" in {node.op_type for node in captured.graph}
    compiled = sparsecc.compile(captured, sparsity="4x1:0.9")
    name = compiled.session.get_inputs()[0].name
    return compiled, {name: x.numpy()}


CASES: dict[str, Callable[[], tuple[sparsecc.Compiled, dict[str, np.ndarray]]]] = {
    "conv_net": conv_net,
    "linear_net": linear_net,
    "torch_encoder": torch_encoder,
}
Case = tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """An artifact without its library, inputs, and what the library answered."""
    compiled, feeds = CASES[request.param]()
    folder = compiled.save(tmp_path_factory.mktemp(request.param) / "artifact")
    answers = compiled.run(feeds)
    assert not compiled.portable
    (folder / str(compiled.manifest.library)).unlink()
    return folder, feeds, answers


def assert_same(got: list[np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def test_the_model_is_one_that_old_runtimes_read(case: Case) -> None:
    model = onnx.load(case[0] / "model.onnx")
    onnx.checker.check_model(model, full_check=False)
    opsets = {each.domain: each.version for each in model.opset_import}
    assert opsets[""] <= 21
    assert model.ir_version <= 10
    assert any(node.domain == "sparsecc" for node in model.graph.node)


def test_the_runtime_of_today(case: Case) -> None:
    folder, feeds, answers = case
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert_same(session.run(None, feeds), answers)


def test_onnxruntime_1_20(case: Case, old_python: Path, tmp_path: Path) -> None:
    folder, feeds, answers = case
    np.savez(tmp_path / "in.npz", **feeds)
    command = [old_python, "-I", "-c", RUN.format(version=OLD_RUNTIME), folder / "model.onnx"]
    subprocess.run([*command, tmp_path / "in.npz", tmp_path / "out.npz"], check=True)
    with np.load(tmp_path / "out.npz") as outputs:
        assert_same([outputs[f"arr_{i}"] for i in range(len(outputs.files))], answers)


def test_the_library_and_run_py_on_onnxruntime_1_20(
    old_python: Path, saved_mlp_and_answer: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    """The library speaks API 18, so it loads there too; nothing but numpy and onnxruntime."""
    folder, wanted = saved_mlp_and_answer
    np.savez(tmp_path / "in.npz", x=small.tokens(0))
    command = [old_python, "-I", folder / "run.py", tmp_path / "in.npz"]
    done = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True)
    name, _, rest = done.stdout.partition(" ")
    assert (name, rest.startswith("(32, 10) float32 [")) == ("y", True)
    shown = [float(number) for number in rest[rest.index("[") + 1 : rest.index("]")].split()]
    np.testing.assert_allclose(shown, wanted.ravel()[: len(shown)], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def saved_mlp_and_answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An artifact with its library, and its answer here."""
    compiled = sparsecc.compile(small.mlp(), sparsity=SETTING)
    return compiled.save(tmp_path_factory.mktemp("mlp") / "artifact"), compiled(small.tokens(0))
