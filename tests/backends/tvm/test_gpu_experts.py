"""Mixtures of experts in libraries for GPUs: those that have kernels, and those that are dense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("tvm")
pytest.importorskip("triton")

import sparsecc
from sparsecc.backends.cuda.experts import Mixture
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.backends.tvm.cuda.library import finished, lowered, machine
from sparsecc.backends.tvm.load import load
from sparsecc.cost.gpu.mixtures import mixture
from sparsecc.cost.model import cost_model
from sparsecc.cost.moe import Routing
from sparsecc.errors import BackendError
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.targets import TARGETS
from tests.backends.cuda.tools import needs_gcc
from tests.backends.tvm.gpu_models import experts

pytestmark = needs_gcc

GPU = TARGETS["cuda-sm_90"]
TOKENS = 7
LOADS = Routing(9, 2, 5).loads


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"features": 40, "bias": True}, "40 → 80 float16 features"),
        ({"features": 40, "gated": False, "packed": "codes"}, "40 → 80 float16 features"),
        ({"tokens": "tokens"}, "its sizes are open"),
        ({"tokens": "tokens", "packed": "zeros"}, "its sizes are open"),
    ],
)
def test_is_dense_and_says_why(how: dict[str, object], said: str) -> None:
    tvm, model = load(), experts(**{"tokens": str(TOKENS)} | how)
    parts, module = lowered(model, GPU, "m")
    assert said in parts.reasons["moe"]
    assert not parts.regions
    x = np.random.default_rng(0).standard_normal((TOKENS, int(how.get("features", 48))))
    x = x.astype(np.float32)
    (wanted,) = session_of_model(twin_of(model)).run(None, {"x": x})
    built = tvm.relax.build(module, target=tvm.target.Target({"kind": "llvm"}))
    made = tvm.relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x))
    np.testing.assert_allclose(made[0].numpy(), wanted, atol=1e-5 * np.abs(wanted).max())
    finished(module, machine("sm_90"))  # TVM schedules all of it for the GPU


def test_weights_that_are_computed_are_an_error() -> None:
    model = experts()
    (node,) = [each for each in model.graph if each.name == "moe"]
    given = ir.Value(
        name="given", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([5, 80, 48])
    )
    model.graph.inputs.append(given)
    node.replace_input_with(3, given)
    with pytest.raises(BackendError, match="weights that are computed") as caught:
        lowered(model, GPU, "m")
    assert caught.value.node == "moe"


def test_the_artifact_starts_them_and_the_report_says_so(tmp_path: Path) -> None:
    proto = ir.to_proto(experts())
    made = sparsecc.compile(proto, target=GPU.name, sparsity="dense", executor="serial")
    (row,) = [row for row in made.manifest.layers if row["name"] == "moe"]
    assert row["kernel"] == "experts-float16"
    task = mixture(Mixture(9, 2, 5, 48, 80, "silu", True, False, "float16", "sm_90"), LOADS)
    assert row["est_ms"] == round(cost_model(GPU).task(task).ms, 6)
    made.save(tmp_path)
    assert b"experts_gated_fp16_m16" in (tmp_path / "model.so").read_bytes()
