"""What our kernels take on a GPU, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("tvm")
pytest.importorskip("triton")

import sparsecc
from sparsecc import ops
from sparsecc.backends.tvm.cuda.library import lowered
from sparsecc.backends.tvm.cuda.parts import UNKNOWN, parts_of
from sparsecc.capture import capture
from sparsecc.errors import TargetError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights import choose
from sparsecc.report.rows import DENSE_MATMUL
from sparsecc.targets import TARGETS
from tests import small
from tests.backends.cuda.tools import needs_gcc
from tests.backends.tvm import gpu_models

pytestmark = needs_gcc

TARGET = TARGETS["cuda-sm_90"]


def reasons(model: ir.Model, largest: Mapping[str, float] = UNKNOWN) -> dict[str, str]:
    parts = parts_of(model, "m", TARGET, largest)
    ours = {each.kernel for each in parts.regions.values()}
    assert largest or ours <= {DENSE_MATMUL}
    return parts.reasons


def test_a_router_stays_float32() -> None:
    parts = parts_of(gpu_models.experts(), "m", TARGET)
    assert set(parts.regions) == {"moe"}


def test_gemms_without_zeros_are_on_tensor_cores_with_their_bias() -> None:
    model = capture(small.mlp(8))
    run(pipeline.EXACT_BEFORE, model, Context())
    parts = parts_of(model, "m", TARGET)
    assert {name: each.kernel for name, each in parts.regions.items()} == dict.fromkeys(
        ("fc1", "fc2"), DENSE_MATMUL
    )


def test_a_head_size_without_a_kernel_is_dense_and_says_so() -> None:
    said = reasons(gpu_models.attention(features=32, length=40))
    assert said == {"attend": "no kernel for attention of 32 float16 features of a head"}


def test_a_mask_is_dense_and_says_so() -> None:
    model = gpu_models.masked()
    assert reasons(model) == {"attend": "a mask is added to its scores"}
    lowered(model, TARGET, "m")


@pytest.mark.parametrize("scale", [-0.5])
def test_a_negative_scale_is_dense_and_says_so(scale: float) -> None:
    model = gpu_models.attention()
    (node,) = (each for each in model.graph if ops.is_attention(each))
    node.attributes["scale"] = ir.AttrFloat32("scale", scale)
    assert reasons(model) == {"attend": "its scale is -0.5"}


def test_open_sizes_are_dense_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "WORTHWHILE", 1e3)
    made = sparsecc.compile(
        small.mlp("rows"), target=TARGET.name, sparsity="16x1:0.8", executor="serial"
    )
    said = {each.node: each.reason for each in made.manifest.refusals if each.pass_name == "cuda"}
    assert said == {"fc1": "its sizes are open", "fc2": "its sizes are open"}
    rows = {row["name"]: row for row in made.manifest.layers}
    assert rows["fc1"]["kernel"] == "tvm"
    assert rows["fc1"]["est_ms"] == rows["fc1"]["dense_ms"]
    assert rows["fc1"]["why"] == "its sizes are open"


def test_a_torch_module_has_the_sizes_of_its_example() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(64, 320), torch.nn.ReLU(), torch.nn.Linear(320, 64))
    made = sparsecc.compile(net, target=TARGET.name, example_inputs=(torch.ones(24, 64),))
    assert made.manifest.inputs[0].dims == (24, 64)
    assert DENSE_MATMUL in {row["kernel"] for row in made.manifest.layers}


def test_weights_beyond_float16_are_dense_and_say_so() -> None:
    model = gpu_models.token()
    (node,) = (each for each in model.graph if ops.is_sparse(each))
    values = node.inputs[ops.input_names(node.op_type).index("values")]
    assert values is not None
    assert values.const_value is not None
    values.const_value = ir.tensor(values.const_value.numpy() * np.float32(1e6))
    assert reasons(model)["fc"].startswith("a weight is no finite float16: the largest is")


def test_eight_bits_are_an_error() -> None:
    with pytest.raises(TargetError, match="no eight-bit kernels for cuda-sm_80"):
        sparsecc.compile(small.mlp(), target="cuda-sm_80", quantize="int8")


def test_an_architecture_without_kernels_is_an_error() -> None:
    with pytest.raises(TargetError, match="sm_75"):
        sparsecc.compile(small.mlp(), target="cuda-sm_75")


def test_what_comes_near_the_end_of_float16_is_left_to_tvm() -> None:
    model = gpu_models.dense()
    large = {"wq": 4e4, "p": 1e9}  # what a product writes, and what attention keeps to itself
    assert reasons(model, large) == {"wq": "its values reach 4e+04, and float16 ends at 65504"}
    assert set(reasons(model, {"x": 1e6})) == {"wq", "wk", "wv"}
    (keys,) = (each.inputs[1] for each in model.graph if each.outputs[0].name == "s")
    assert set(reasons(model, {str(keys.name): 1e5})) >= {"attend"}


def test_calibration_data_say_what_is_too_large() -> None:
    def kernels(scale: float) -> set[str]:
        data = {"x": scale * np.random.default_rng(0).standard_normal((64, 256), np.float32)}
        made = sparsecc.compile(
            small.mlp(8), target="cuda-sm_90", sparsity="dense", calibration=data, executor="serial"
        )
        return {str(row["kernel"]) for row in made.manifest.layers if row["name"] == "fc1"}

    assert kernels(1.0) == {DENSE_MATMUL}
    assert kernels(1e5) == {"tvm"}
