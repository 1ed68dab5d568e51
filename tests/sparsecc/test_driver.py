"""compile(): what comes out is right, is what was asked for, and leaves the user's model alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sparsecc
from sparsecc.errors import CalibrationError
from sparsecc.formats.blocks import unpack_blocks
from sparsecc.formats.patterns import Pattern, mask_from_scores
from sparsecc.identity import model_hash
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.inline import InlineRegions
from sparsecc.passes.weights.layers import find_layers, matrix
from sparsecc.search.allocation import ALLOCATIONS, MEASURED
from tests import small

ZEROS = "4x1:0.8"
TOLERANCE = 1e-4


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def block_mask(weight: np.ndarray, pattern: str, sparsity: float) -> np.ndarray:
    """The mask that keeps the most energy of ``weight[R, K]``, in numpy alone."""
    return mask_from_scores(np.square(weight), Pattern.parse(pattern), sparsity)


def masked_twin(proto: onnx.ModelProto, pattern: str, sparsity: float, *names: str):
    """The model with the smallest blocks of the named Gemm weights ``[K, R]`` at zero."""
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    for tensor in twin.graph.initializer:
        if tensor.name.removesuffix(".weight") in names:
            weight = numpy_helper.to_array(tensor)
            mask = block_mask(weight.T, pattern, sparsity).T
            tensor.CopyFrom(numpy_helper.from_array(weight * mask, tensor.name))
    return twin


@pytest.fixture(scope="module")
def existing() -> sparsecc.Compiled:
    return sparsecc.compile(small.mobilenet(ZEROS))


def test_existing_zeros_change_nothing(existing, stock) -> None:
    x = small.image(1)
    assert distance(existing(x), stock(small.mobilenet(ZEROS), image=x)) < TOLERANCE
    assert existing.quality["cosine"] == pytest.approx(1, abs=1e-6)
    assert existing.quality["rel_error"] < 1e-8
    assert existing.manifest.numerics["max_rel_error"] < TOLERANCE


def test_existing_zeros_run_sparse_and_the_rest_has_a_reason(existing) -> None:
    rows = {row["name"]: row for row in existing.manifest.layers}
    assert rows["block7.pointwise"]["kernel"].startswith("conv-")
    assert rows["block7.pointwise"]["pattern"] == "4x1"
    assert (rows["stem"]["kernel"], rows["stem"]["density"]) == ("conv-dense", 1.0)
    assert all(row["why"] for row in rows.values())
    assert existing.manifest.library is not None


def test_pruned_without_data_equals_the_mask_of_the_largest_blocks(pruned_mlp, stock) -> None:
    x = small.tokens(1)
    twin = masked_twin(small.mlp(), "4x1", 0.8, "fc1", "fc2")
    assert distance(pruned_mlp(x), stock(twin, x=x)) < TOLERANCE
    assert distance(pruned_mlp(x), stock(small.mlp(), x=x)) > 0.1


def test_a_pruned_convolution_net_equals_its_twin(stock) -> None:
    dense = small.mobilenet()
    compiled = sparsecc.compile(dense, sparsity=ZEROS)
    kept = {layer.choice.sparsity > 0: layer for layer in compiled.plan.layers}
    assert set(kept) == {True, False}
    twin = onnx.ModelProto()
    twin.CopyFrom(dense)
    pruned = {each.name for each in compiled.plan.layers if each.choice.sparsity > 0}
    weights = {n.input[1] for n in twin.graph.node if n.op_type == "Conv" and n.name in pruned}
    for tensor in twin.graph.initializer:
        if tensor.name in weights:
            weight = numpy_helper.to_array(tensor)
            rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
            mask = block_mask(rows, "4x1", 0.8).reshape(len(weight), *weight.shape[2:], -1)
            tensor.CopyFrom(
                numpy_helper.from_array(weight * mask.transpose(0, 3, 1, 2), tensor.name)
            )
    x = small.image(2)
    assert distance(compiled(x), stock(twin, image=x)) < TOLERANCE


def test_calibration_brings_outputs_nearer_to_the_dense_model(pruned_mlp, stock) -> None:
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((small.WIDTH, small.WIDTH)) * (rng.random(small.WIDTH) < 0.3)

    def samples(seed: int, count: int) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal((count, small.WIDTH))
        return (noise @ mixing.T / 8).astype(np.float32)

    dense = small.mlp("n")
    compiled = sparsecc.compile(dense, sparsity=ZEROS, calibration={"x": samples(0, 512)})
    x = samples(1, small.TOKENS)
    wanted = stock(dense, x=x)
    errors = [np.square(each(x) - wanted).mean() for each in (compiled, pruned_mlp)]
    assert errors[0] < 0.75 * errors[1]
    losses = [layer.loss for layer in compiled.plan.layers if layer.choice.sparsity > 0]
    assert all(loss is not None and 0 < loss < 1 for loss in losses)
    assert 0 < compiled.quality["rel_error"] < 1
    assert compiled.manifest.numerics["max_rel_error"] < TOLERANCE


def test_the_plan_says_exactly_what_was_done(pruned_mlp) -> None:
    plan = pruned_mlp.plan
    assert (plan.spec, plan.allocation, plan.sparsecc) == (ZEROS, "uniform", sparsecc.__version__)
    assert plan.target == pruned_mlp.manifest.target
    assert [layer.name for layer in plan.layers] == ["fc1", "fc2", "head"]
    first, second, head = plan.layers
    for layer in (first, second):
        assert (layer.op, layer.rows, layer.cols) == ("Gemm", small.WIDTH, small.WIDTH)
        assert str(layer.choice.pattern) == "4x1"
        assert layer.density == pytest.approx(0.2, abs=0.001)
        assert layer.kernel.startswith("matmul-")
        assert layer.predicted_ms < layer.dense_ms
    assert (str(head.choice.pattern), head.density) == ("dense", 1)
    assert "tiny" in head.reason
    assert sparsecc.Plan.from_json(plan.to_json()) == plan


def test_the_model_is_identified(pruned_mlp) -> None:
    from sparsecc.capture import capture

    assert pruned_mlp.plan.model_hash == model_hash(capture(small.mlp()))


def test_the_report_names_every_layer(pruned_mlp) -> None:
    text = str(pruned_mlp.report)
    for name in ("fc1", "fc2", "head", "matmul-dense"):
        assert name in text


def test_size_is_what_lies_on_disk(pruned_mlp, saved_mlp) -> None:
    notes = ("manifest.json", "report.html")
    files = [path for path in saved_mlp.iterdir() if path.name not in notes]
    assert pruned_mlp.size_bytes == sum(path.stat().st_size for path in files)
    dense = sparsecc.compile(small.mlp())
    weights = [each.manifest.files["model.onnx"].bytes for each in (pruned_mlp, dense)]
    assert weights[0] < 0.5 * weights[1]
    assert dense.manifest.library is None


def test_overrides_come_before_the_request(stock) -> None:
    compiled = sparsecc.compile(
        small.mlp(), sparsity=ZEROS, overrides={"fc1": "dense", "fc*": "16x1:0.5"}
    )
    patterns = {layer.name: str(layer.choice.pattern) for layer in compiled.plan.layers}
    assert patterns == {"fc1": "dense", "fc2": "16x1", "head": "dense"}
    assert compiled.plan.overrides == {"fc1": "dense", "fc*": "16x1:0.5"}
    x = small.tokens(3)
    twin = masked_twin(small.mlp(), "16x1", 0.5, "fc2")
    assert distance(compiled(x), stock(twin, x=x)) < TOLERANCE


def test_an_override_reaches_a_layer_that_would_stay_dense() -> None:
    compiled = sparsecc.compile(small.mlp(), overrides={"head": "unstructured:0.5"})
    head = compiled.plan.layers[-1]
    assert head.density == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_total_is_what_was_asked_for(allocation: str) -> None:
    compiled = sparsecc.compile(
        small.mobilenet(),
        sparsity=ZEROS,
        allocation=allocation,
        calibration=[{"image": small.image(seed, 1)} for seed in range(4)],
        executor="serial",
        refit=False,
        score="magnitude",
    )
    pruned = [layer for layer in compiled.plan.layers if layer.choice.sparsity > 0]
    kept = sum(layer.density * layer.rows * layer.cols for layer in pruned)
    assert kept / sum(layer.rows * layer.cols for layer in pruned) == pytest.approx(0.2, abs=0.01)
    assert (len({round(layer.density, 2) for layer in pruned}) > 1) == (allocation != "uniform")


@pytest.mark.parametrize("allocation", MEASURED)
def test_allocations_that_look_at_data_say_so_where_there_are_none(allocation: str) -> None:
    with pytest.raises(CalibrationError, match=allocation) as caught:
        sparsecc.compile(small.mlp(), sparsity=ZEROS, allocation=allocation)
    assert "calibration" in caught.value.fix


def test_the_file_of_the_user_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small.mlp(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    before = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in tmp_path.iterdir()}
    compiled = sparsecc.compile(path, sparsity=ZEROS)
    compiled(small.tokens(0))
    after = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in tmp_path.iterdir()}
    assert after == before
    assert set(before) == {"model.onnx", "w.data"}


def test_the_object_of_the_user_is_left_alone() -> None:
    proto = small.mlp()
    before = proto.SerializeToString(deterministic=True)
    sparsecc.compile(proto, sparsity=ZEROS, calibration={"x": small.tokens(0)})
    assert proto.SerializeToString(deterministic=True) == before


def test_the_module_of_the_user_is_left_alone(stock) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(256, 256),
        torch.nn.GELU(),
        torch.nn.Linear(256, 256),
        torch.nn.Linear(256, 9),
    )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x = torch.from_numpy(small.tokens(0))
    compiled = sparsecc.compile(module, sparsity=ZEROS, example_inputs=(x,), refit=False)
    assert module.training
    assert all(torch.equal(before[n], tensor) for n, tensor in module.state_dict().items())
    assert {layer.name for layer in compiled.plan.layers if layer.density < 0.5} == {"0", "2"}
    with torch.no_grad():
        for at in (0, 2):
            weight = module[at].weight
            weight *= torch.from_numpy(block_mask(weight.numpy(), "4x1", 0.8))
        wanted = module(x)
    assert isinstance(compiled(x), torch.Tensor)
    assert distance(compiled(x).numpy(), wanted.numpy()) < TOLERANCE


def test_verify_changes_nothing(pruned_mlp) -> None:
    checked = sparsecc.compile(small.mlp(), sparsity=ZEROS, verify=True)
    assert checked.manifest == pruned_mlp.manifest


def test_sparsity_may_be_a_number() -> None:
    compiled = sparsecc.compile(small.mlp(), sparsity=0.9)
    assert compiled.plan.spec == "unstructured:0.9"


def test_progress_never_goes_back_and_ends() -> None:
    told: list[tuple[str, float]] = []
    sparsecc.compile(
        small.mlp(),
        sparsity=ZEROS,
        calibration={"x": small.tokens(0)},
        progress=lambda what, share: told.append((what, share)),
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert all(what for what, _ in told)


def test_a_model_without_layers_is_left_as_it_is(stock) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "act")]
    proto = small.model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {})
    compiled = sparsecc.compile(proto, sparsity=ZEROS)
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    np.testing.assert_array_equal(compiled(x), np.maximum(x, 0))
    assert compiled.plan.layers == ()
    assert compiled.manifest.library is None


def test_outputs_that_are_not_finite_agree_with_themselves() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "fc"),
        helper.make_node("Sqrt", ["a"], ["y"], "root"),
    ]
    proto = small.model(nodes, {"x": [4, 64]}, {"y": [4, 64]}, {"w": weight})
    compiled = sparsecc.compile(proto)
    assert np.isnan(compiled(np.ones((4, 64), np.float32))).any()
    assert compiled.manifest.numerics == {"max_rel_error": 0.0}
    assert compiled.quality["rel_error"] == 0


def test_another_machines_artifact_is_portable_here(stock, tmp_path: Path) -> None:
    compiled = sparsecc.compile(small.mlp(), "arm64-linux", sparsity=ZEROS)
    x = small.tokens(4)
    twin = masked_twin(small.mlp(), "4x1", 0.8, "fc1", "fc2")
    assert compiled.portable
    assert compiled.manifest.library == "libsparsecc-arm64-linux.so"
    assert distance(compiled(x), stock(twin, x=x)) < TOLERANCE
    folder = compiled.save(tmp_path / "out")
    assert (folder / "libsparsecc-arm64-linux.so").read_bytes()[:4] == b"\x7fELF"
    with pytest.raises(sparsecc.TargetError, match="compiled for arm64-linux") as caught:
        sparsecc.load(folder)
    assert "target='native'" in str(caught.value)
    assert "model.onnx" in str(caught.value)


def test_the_packed_weights_are_those_of_the_user(saved_mlp) -> None:
    """Without data nothing is refitted: what is kept is bit for bit what was there."""
    import onnx_ir as ir

    from sparsecc import ops
    from sparsecc.capture import capture

    dense = {each.name: matrix(each) for each in find_layers(capture(small.mlp())).layers}
    model = ir.load(saved_mlp / "model.onnx")
    run([InlineRegions()], model, Context())
    sparse = [n for n in model.graph if ops.is_sparse(n)]
    assert [node.name for node in sparse] == ["fc1", "fc2", "head"]
    for node in sparse:
        mine, theirs = unpack_blocks(ops.read_packed(node)), dense[node.name]
        kept = 1 if node.name == "head" else block_mask(theirs, "4x1", 0.8)
        np.testing.assert_array_equal(mine, theirs * kept)


@pytest.mark.parametrize("pattern", ["4x1:0.8", "2:4"])
def test_channels_in_a_better_order_lose_less_and_a_plan_says_so(pattern, stock, tmp_path) -> None:
    plain = sparsecc.compile(small.mlp(), sparsity=pattern)
    better = sparsecc.compile(small.mlp(), sparsity=pattern, permute=True)
    assert better.quality["rel_error"] < plain.quality["rel_error"]
    assert (plain.plan.permuted, better.plan.permuted) == ("", "choices")
    assert any("channels in another order" in layer.reason for layer in better.plan.layers)
    x = small.tokens(1)
    artifact = better.save(tmp_path / "artifact")
    assert distance(better(x), stock(artifact / "model.onnx", x=x)) < TOLERANCE
    again = sparsecc.apply(small.mlp(), better.plan)
    assert again.plan.permuted == "choices"
    assert np.array_equal(again(x), better(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": "4x1:0.5", "allocation": "spdy", "permute": True},
        {"sparsity": "channels:0.3", "permute": True},
    ],
)
def test_progress_goes_on_where_one_work_follows_another(settings) -> None:
    shares: list[float] = []
    sparsecc.compile(
        small.mlp("n"),
        **settings,
        calibration={"x": small.tokens(0, 96)},
        progress=lambda what, share: shares.append(share),
    )
    assert shares == sorted(shares)
