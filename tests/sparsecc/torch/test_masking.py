from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import sparsecc
from sparsecc.errors import ArtifactError, ModelError
from sparsecc.formats.patterns import Pattern, detect
from sparsecc.torch import apply_masks, masks, plan_masks, remove_masks
from sparsecc.torch.module_layers import to_matrix
from tests.small_torch import accuracy, adam, cnn, compile_and_check, digits, fit


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    model = cnn()
    fit(model, adam(model), range(60))
    return model


@pytest.fixture(scope="module")
def pruned(trained: nn.Sequential) -> sparsecc.Compiled:
    x, _ = digits()
    return sparsecc.compile(
        trained,
        sparsity="4x1:0.75",
        example_inputs=(x[:2],),
        calibration={"input": x[:256].numpy()},
    )


def copy_of(model: nn.Sequential) -> nn.Sequential:
    fresh = cnn()
    fresh.load_state_dict(model.state_dict())
    return fresh


def test_masks_of_an_artifact_have_the_layout_of_torch(
    trained: nn.Sequential, pruned: sparsecc.Compiled, tmp_path: Path
) -> None:
    found = masks(pruned)
    assert set(found) == {"3", "7"}  # the others are a stem, tiny or the last layer
    for name, mask in found.items():
        assert mask.shape == trained.get_submodule(name).weight.shape
        shares = to_matrix(mask)
        assert detect(shares).pattern == Pattern("block", (4, 1))
        assert shares.mean() == pytest.approx(0.25, abs=0.01)
    again = masks(pruned.save(tmp_path / "out"))
    assert all(torch.equal(mask, again[name]) for name, mask in found.items())


def test_fine_tuning_under_masks_compiles_to_the_same_zeros(
    trained: nn.Sequential, pruned: sparsecc.Compiled
) -> None:
    model = copy_of(trained)
    held = apply_masks(model, pruned)
    before = accuracy(model)
    fit(model, adam(model), range(60, 100))
    remove_masks(model)
    assert accuracy(model) > before
    for name, mask in held.items():
        weight = model.get_submodule(name).weight
        assert not parametrize.is_parametrized(model.get_submodule(name))
        assert torch.equal(weight != 0, mask)
        assert (weight != trained.get_submodule(name).weight)[mask].any()
    after = masks(compile_and_check(model))
    assert set(after) == set(held)
    assert all(torch.equal(after[name], mask) for name, mask in held.items())


def test_masked_weights_get_no_gradient_and_nan_behind_a_mask_does_no_harm() -> None:
    layer = nn.Sequential(nn.Linear(16, 16))
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    apply_masks(layer, {"0": mask})
    original = layer[0].parametrizations.weight.original
    original.data[~mask] = float("nan")
    x = torch.randn(5, 16)
    layer(x).sum().backward()
    # y = W x summed: every row of the gradient is the sum of the inputs.
    torch.testing.assert_close(original.grad, x.sum(0).expand(16, 16) * mask)


def test_masks_of_a_plan_have_its_pattern_and_share(
    trained: nn.Sequential, pruned: sparsecc.Compiled
) -> None:
    model = copy_of(trained)
    found = apply_masks(model, pruned.plan)
    assert set(found) == {"3", "7"}
    for name, mask in found.items():
        assert to_matrix(mask).mean() == pytest.approx(0.25, abs=0.01)
        weight = np.square(to_matrix(trained.get_submodule(name).weight))
        blocks = weight.reshape(len(weight) // 4, 4, -1).sum(1)
        kept = to_matrix(mask).astype(bool)[::4]
        assert blocks[kept].min() >= blocks[~kept].max()


def test_a_plan_of_existing_zeros_gives_those(trained: nn.Sequential) -> None:
    model = copy_of(trained)
    kept = torch.rand(48, 32, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.3
    model[7].weight.data *= kept
    plan = compile_and_check(model).plan
    assert torch.equal(plan_masks(model, plan)["7"], kept)


def test_a_layer_of_factors_has_no_mask_whatever_is_sparse_beside_them(
    trained: nn.Sequential, pruned: sparsecc.Compiled
) -> None:
    raw = json.loads(pruned.plan.to_json())
    (layer,) = [layer for layer in raw["layers"] if layer["name"] == "7"]
    layer["choice"] |= {"structure": "rank:8", "sparsity": 0.9}
    plan = sparsecc.Plan.from_json(json.dumps(raw))
    with pytest.warns(RuntimeWarning, match="no mask of '7': its 4x1 zeros are of what rank:8"):
        found = apply_masks(copy_of(trained), plan)
    assert set(found) == {"3"}
    x, _ = digits()
    made = sparsecc.apply(
        trained, plan, example_inputs=(x[:2],), calibration={"input": x[:256].numpy()}
    )
    assert any(row.structure == "rank:8" and row.pattern == "4x1" for row in made.report.rows)
    assert set(apply_masks(copy_of(trained), made)) == {"3"}


def test_two_runs_of_one_module_share_what_any_keeps() -> None:
    layer = nn.Sequential(nn.Linear(16, 16))
    one, two = (torch.rand(16, 16) < 0.5 for _ in range(2))
    assert torch.equal(apply_masks(layer, {"0": one, "0_2": two})["0"], one | two)


def test_an_attentions_packed_weight_is_masked_too() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    kept = torch.rand(96, 32) < 0.3
    apply_masks(model, {"self_attn": kept, "linear1": torch.rand(64, 32) < 0.3})
    masked = model(x)
    remove_masks(model)
    torch.testing.assert_close(model(x), masked)
    assert torch.equal(model.self_attn.in_proj_weight != 0, kept)


def test_a_mask_that_fits_no_layer_is_named_and_nothing_is_changed() -> None:
    model = cnn()
    good = torch.ones(48, 32, 3, 3, dtype=torch.bool)
    for bad, message in [
        ({"9": torch.ones(2, 2)}, "no linear or convolution '9'"),
        ({"3": torch.ones(32, 16)}, r"'3' is \[32, 16, 3, 3\], not \[32, 16\]"),
    ]:
        with pytest.raises(ModelError, match=message):
            apply_masks(model, {"7": good} | bad)
        assert not parametrize.is_parametrized(model[7])
    apply_masks(model, {"7": good})
    with pytest.raises(ModelError, match="'7' is parametrised already"):
        apply_masks(model, {"7": good})


def test_an_altered_artifact_gives_no_masks(pruned: sparsecc.Compiled, tmp_path: Path) -> None:
    folder = pruned.save(tmp_path / "out")
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError):
        masks(folder)


def test_a_model_in_another_order_of_channels_gives_no_masks(
    pruned: sparsecc.Compiled, tmp_path: Path
) -> None:
    folder = pruned.save(tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["plan"]["permuted"] = "choices"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="another order"):
        masks(folder)


def test_an_eight_bit_model_gives_no_masks(trained: nn.Sequential) -> None:
    x, _ = digits()
    small = sparsecc.compile(
        trained,
        sparsity="4x4:0.5",
        quantize="int8",
        example_inputs=(x[:2],),
        calibration={"input": x[:64].numpy()},
    )
    with pytest.raises(ModelError, match="eight-bit"):
        masks(small)
