from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsecc.errors import ModelError, PlanError
from sparsecc.formats.patterns import block_sums
from sparsecc.search.allocation import erk
from sparsecc.torch import Dynamic, Gradual, Progressive, Sparsifier, SrSte, apply_masks, masks
from sparsecc.torch.module_layers import find_layers, to_matrix
from sparsecc.torch.schedules import Schedule
from tests.small_torch import accuracy, adam, cnn, compile_and_check, fit

STEPS = 80
RUNS: dict[str, tuple[str, Schedule]] = {
    "gradual": ("4x1:0.75", Gradual(end=60, every=5)),
    "rigl": ("4x1:0.75", Dynamic(end=60, every=5)),
    "set": ("unstructured:0.75", Dynamic(end=60, every=5, grow="random")),
    "progressive": ("2:8", Progressive(begin=10, end=60)),
    "stepwise": ("2:8", Progressive(begin=0, end=60, decay_by="stepwise")),
    "progressive blocks": ("16x1:0.5", Progressive(begin=10, end=60, decay_by="exponential")),
    "sr-ste": ("2:4", SrSte()),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_network_trained_sparse_learns_and_compiles_with_its_zeros(name: str) -> None:
    spec, schedule = RUNS[name]
    model = cnn()
    optimizer = adam(model)
    sparsifier = Sparsifier(model, spec, schedule, optimizer=optimizer)
    fit(model, optimizer, range(STEPS), sparsifier.step)
    assert sparsifier.steps == STEPS
    kept = sparsifier.finish()
    assert set(kept) == {"3", "7", "12"}
    assert not any("parametrizations" in key for key in model.state_dict())
    assert accuracy(model) > 0.5  # one in ten by chance
    asked = 1 - sum(mask.float().mean() for mask in kept.values()) / len(kept)
    assert asked == pytest.approx(float(spec.split(":")[1]) if "." in spec else _nm(spec), abs=0.01)

    weights = {key: model.get_submodule(key).weight for key in kept}
    assert not any(weights[key][~mask].any() for key, mask in kept.items())
    _check_pattern(spec, weights)
    after = masks(compile_and_check(model))
    for key, weight in weights.items():
        assert torch.equal(after[key], weight != 0)


def _nm(spec: str) -> float:
    keep, group = map(int, spec.split(":"))
    return 1 - keep / group


def _check_pattern(spec: str, weights: dict[str, nn.Parameter]) -> None:
    """No block is kept in part, no group keeps more than N of M, whatever masks say."""
    for weight in weights.values():
        nonzero = (to_matrix(weight) != 0).astype(float)
        if "x" in spec:
            side = int(spec.partition("x")[0])
            blocks = block_sums(nonzero, (side, 1))
            assert (blocks > 0).mean() <= 1 - float(spec.split(":")[1]) + 0.01
        elif "." not in spec:
            keep, group = map(int, spec.split(":"))
            assert (block_sums(nonzero, (1, group)) == keep).all()


def _run(steps: int, resumed_at: int, spec: str, schedule: Schedule) -> dict[str, torch.Tensor]:
    """Weights after some steps of training, with a stop through a file in between."""
    model = cnn()
    optimizer = adam(model)
    sparsifier = Sparsifier(model, spec, schedule, optimizer=optimizer, seed=3)
    fit(model, optimizer, range(resumed_at), sparsifier.step)
    if resumed_at:
        file = io.BytesIO()
        parts: tuple[Any, ...] = (model, optimizer, sparsifier)
        torch.save([part.state_dict() for part in parts], file)
        file.seek(0)
        model = cnn(seed=99)
        optimizer = adam(model)
        sparsifier = Sparsifier(model, spec, schedule, optimizer=optimizer, seed=3)
        for part, state in zip((model, optimizer, sparsifier), torch.load(file), strict=True):
            part.load_state_dict(state)
    fit(model, optimizer, range(resumed_at, steps), sparsifier.step)
    sparsifier.finish()
    return dict(model.state_dict())


@pytest.mark.parametrize("name", ["gradual", "rigl", "set", "progressive", "stepwise", "sr-ste"])
def test_a_resumed_run_gives_the_same_bits(name: str) -> None:
    spec, schedule = RUNS[name]
    whole, resumed = (_run(24, at, spec, schedule) for at in (0, 13))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_dropped_weights_are_zero_and_forgotten_after_every_step() -> None:
    model = cnn()
    optimizer = adam(model)
    sparsifier = Sparsifier(model, "4x1:0.75", Dynamic(end=60, every=3), optimizer=optimizer)
    seen = []

    def after() -> None:
        before = sparsifier.masks
        sparsifier.step()
        now = sparsifier.masks
        for name, mask in now.items():
            weight = model.get_submodule(name).weight
            moments = [optimizer.state[weight][key] for key in ("exp_avg", "exp_avg_sq")]
            for tensor in (weight, *moments):
                assert not tensor[~mask].any()
                assert not tensor[mask & ~before[name]].any()  # what grows begins afresh
            seen.append(bool((mask & ~before[name]).any()))
            assert mask.sum() == before[name].sum()

    fit(model, optimizer, range(9), after)
    assert any(seen)


def test_rigl_grows_where_the_gradient_is_steepest() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    sparsifier = Sparsifier(
        model,
        "unstructured:0.5",
        Dynamic(end=10, every=1, fraction=0.2),
        overrides={"0": "unstructured:0.5"},
    )
    before = sparsifier.masks["0"]
    model(torch.randn(8, 16)).square().sum().backward()
    gradient = model[0].weight.grad.abs()
    optimizer.step()
    sparsifier.step()
    grown = sparsifier.masks["0"] & ~before
    absent = ~before & ~grown
    assert grown.any()
    assert gradient[grown].min() >= gradient[absent].max()


def test_erk_keeps_the_total_and_gives_large_layers_more_zeros() -> None:
    model = cnn()
    sparsifier = Sparsifier(model, "unstructured:0.8", Dynamic(end=10), allocation="erk")
    layers = [layer for layer in find_layers(model) if not layer.keep_dense]
    found = [float(sparsifier.masks[layer.name].float().mean()) for layer in layers]
    np.testing.assert_allclose(found, erk(layers, 0.2), atol=1e-3)
    assert sparsifier.density == pytest.approx(0.2, abs=1e-3)
    assert found[1] == min(found)  # the largest convolution


def test_overrides_decide_by_name_also_over_reasons_to_stay_dense() -> None:
    wanted = {"3": "dense", "14": "unstructured:0.5", "*": "4x1:0.5"}
    sparsifier = Sparsifier(cnn(), "4x1:0.9", Gradual(end=10), overrides=wanted)
    assert set(sparsifier.masks) == {"0", "7", "12", "14"}


def test_finishing_early_gives_what_was_asked_for() -> None:
    for spec, schedule in (RUNS["gradual"], RUNS["stepwise"], RUNS["progressive"]):
        model = cnn()
        sparsifier = Sparsifier(model, spec, schedule)
        kept = sparsifier.finish()
        assert 1 - sparsifier.density == pytest.approx(0.75, abs=0.01)
        assert all(not model.get_submodule(n).weight[~mask].any() for n, mask in kept.items())
        with pytest.raises(ModelError, match="apply_masks"):
            sparsifier.step()
        apply_masks(model, kept)


def test_what_cannot_be_is_said_and_names_the_layer() -> None:
    for spec, schedule, overrides, message in [
        ("2:4", Gradual(end=10), {}, "'3': 2:4 fixes what each group keeps"),
        ("2:4", Dynamic(end=10), {}, "'3': 2:4 fixes what each group keeps"),
        ("existing", SrSte(), {}, "no use for 'existing'"),
        ("4x1:0.5", SrSte(), {"fc*": "dense"}, "matches no prunable layer"),
        ("dense", SrSte(), {}, "no layer can be sparse"),
        ("4x1", SrSte(), {}, "not a sparsity request"),
    ]:
        with pytest.raises(PlanError, match=message):
            Sparsifier(cnn(), spec, schedule, overrides=overrides)
    with pytest.raises(PlanError, match="unknown allocation 'owl'"):
        Sparsifier(cnn(), "2:4", SrSte(), allocation="owl")  # type: ignore[arg-type]
    model = cnn()
    Sparsifier(model, "2:4", SrSte())
    with pytest.raises(ModelError, match="'3' is parametrised already"):
        Sparsifier(model, "2:4", SrSte())


def test_a_step_without_gradients_or_after_divergence_says_so() -> None:
    model = cnn()
    sparsifier = Sparsifier(model, "4x1:0.5", Dynamic(end=10, every=1))
    with pytest.raises(ModelError, match=r"'3' has no gradient[\s\S]*before zero_grad"):
        sparsifier.step()
    model[7].weight.data[0, 0, 0, 0] = float("nan")
    diverged = Sparsifier(cnn(), "4x1:0.5", Gradual(end=10, every=1))
    diverged.step()
    with pytest.raises(ModelError, match="'7' holds NaN"):
        Sparsifier(model, "4x1:0.5", Gradual(end=10))


def test_a_state_of_other_layers_is_refused_whole() -> None:
    sparsifier = Sparsifier(cnn(), "4x1:0.5", Gradual(end=10))
    state = sparsifier.state_dict()
    other = {**state, "steps": 5, "masks": {**state["masks"], "7": torch.ones(2, 2)}}
    with pytest.raises(ModelError, match="'7'"):
        sparsifier.load_state_dict(other)
    del other["masks"]["7"]
    with pytest.raises(ModelError, match="'7'"):
        sparsifier.load_state_dict(other)
    with pytest.raises(ModelError, match="no 'masks'"):
        sparsifier.load_state_dict({"steps": 3})
    assert sparsifier.steps == 0
