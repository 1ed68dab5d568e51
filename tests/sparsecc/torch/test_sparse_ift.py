from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sparsecc.errors import ModelError, PlanError
from sparsecc.torch import Dynamic, Sparsifier, masks, sparse_flops, sparse_ift
from sparsecc.torch.sparse_ift import Kind
from tests.small_torch import accuracy, adam, cnn, compile_and_check, digits, fit

KINDS: tuple[Kind, ...] = ("wide", "parallel", "factorised", "doped")


def test_the_counter_agrees_with_torchs_on_dense_layers() -> None:
    x, _ = digits()
    model = cnn().eval()
    with FlopCounterMode(display=False) as counter:
        model(x[:3])
    assert sparse_flops(model, x[:3]) == counter.get_total_flops()
    model[7].weight.data[:24] = 0  # half of the outputs of a layer of 4x4 pixels
    halved = 2 * 3 * 16 * model[7].weight.numel() // 2
    assert sparse_flops(model, x[:3]) == counter.get_total_flops() - halved


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ["unstructured:0.75", "4x1:0.8", "1x4:0.5"])
def test_a_replaced_network_takes_as_many_operations(kind: Kind, spec: str) -> None:
    x, _ = digits()
    model = cnn()
    replaced = sparse_ift(model, spec, kind)
    Sparsifier(replaced.module, "dense", Dynamic(end=10), overrides=replaced.overrides).finish()
    ratio = sparse_flops(replaced.module, x[:2]) / sparse_flops(model, x[:2])
    assert ratio == pytest.approx(1, abs=0.01)
    larger, before = (sum(p.numel() for p in m.parameters()) for m in (replaced.module, model))
    assert larger > 1.3 * before
    assert replaced.module.eval()(x[:2]).shape == (2, 10)


@given(
    st.lists(st.integers(16, 200), min_size=3, max_size=5),
    st.sampled_from([0.5, 0.6, 0.75, 0.8, 0.9]),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_it_does_so_at_any_width_to_rounding(
    widths: list[int], sparsity: float, kind: Kind, bias: bool
) -> None:
    layers = [nn.Linear(a, b, bias) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*layers)
    replaced = sparse_ift(model, f"unstructured:{sparsity}", kind)
    Sparsifier(replaced.module, "dense", Dynamic(end=10), overrides=replaced.overrides).finish()
    x = torch.randn(2, widths[0])
    ratio = sparse_flops(replaced.module, x) / sparse_flops(model, x)
    assert ratio == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replaced_network_trains_and_compiles(kind: Kind) -> None:
    torch.manual_seed(0)
    replaced = sparse_ift(cnn(), "4x1:0.75", kind)
    model = replaced.module
    optimizer = adam(model)
    sparsifier = Sparsifier(
        model,
        "dense",
        Dynamic(end=60, every=5),
        overrides=replaced.overrides,
        optimizer=optimizer,
    )
    fit(model, optimizer, range(80), sparsifier.step)
    kept = sparsifier.finish()
    assert accuracy(model) > 0.4
    after = masks(compile_and_check(model))
    for name in kept:
        assert torch.equal(after[name], model.get_submodule(name).weight != 0)


def test_widths_grow_by_the_root_and_the_ends_stay() -> None:
    wide = sparse_ift(cnn(), "4x1:0.75", "wide").module
    shapes = [list(wide[i].weight.shape[:2]) for i in (0, 3, 7, 12, 14)]
    assert shapes == [[32, 1], [64, 32], [96, 64], [128, 96], [10, 128]]
    assert wide[4].num_features == 64


def test_a_linear_behind_flattened_channels_widens_with_them() -> None:
    model = nn.Sequential(
        OrderedDict(
            body=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            flat=nn.Flatten(),
            head=nn.Linear(8 * 16, 10),
        )
    )
    wide = sparse_ift(model, "unstructured:0.75", "wide").module
    assert wide.head.in_features == 16 * 16
    assert wide(torch.randn(2, 3, 4, 4)).shape == (2, 10)


def test_one_layer_of_each_kind_has_the_shapes_of_the_formulas() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32))
    x = torch.randn(4, 64)

    parallel = sparse_ift(model, "unstructured:0.8", "parallel").module[0]
    assert len(parallel.branches) == 5
    by_hand = sum(torch.relu(x @ b.weight.T + b.bias) for b in parallel.branches)
    torch.testing.assert_close(parallel(x), by_hand)

    factorised = sparse_ift(model, "unstructured:0.75", "factorised").module[0]
    assert factorised[0].out_features == round(64 * 32 / (64 + 32) * 4)

    doped = sparse_ift(model, "unstructured:0.75", "doped").module[0]
    first, second = doped.low_rank
    assert first.out_features == int(0.75 * 64 * 32 / (64 + 32))
    dense = second.weight @ first.weight + doped.sparse.weight
    torch.testing.assert_close(doped(x), x @ dense.T + doped.sparse.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_is_left_alone(kind: Kind) -> None:
    model = cnn()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sparse_ift(model, "4x1:0.75", kind)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_torch_transformer_keeps_the_layers_whose_weights_it_reads_itself() -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    replaced = sparse_ift(nn.Sequential(model), "4x1:0.75", "parallel")
    assert replaced.overrides == {}
    x = torch.randn(1, 3, 32)
    torch.testing.assert_close(replaced.module(x), model(x))


def test_what_cannot_be_replaced_is_said() -> None:
    for spec in ("2:4", "existing", "dense", "4x1:0"):
        with pytest.raises(PlanError, match="by itself, or has none"):
            sparse_ift(cnn(), spec, "wide")
    with pytest.raises(PlanError, match="unknown replacement 'deep'"):
        sparse_ift(cnn(), "4x1:0.5", "deep")  # type: ignore[arg-type]
    grouped = nn.Sequential(nn.Conv2d(16, 16, 3, groups=4), nn.Linear(16, 16))
    with pytest.raises(ModelError, match="'0', a Conv2d, is no link of a chain"):
        sparse_ift(grouped, "4x1:0.5", "wide")
    with pytest.raises(ModelError, match="fewer than two layers"):
        sparse_ift(nn.Sequential(nn.Linear(16, 16)), "4x1:0.5", "wide")
