from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.errors import ModelError, PlanError
from sparsecc.torch import Relufier
from sparsecc.torch.relufier import Blended

FEATURES, HIDDEN = 12, 40


class Gated(nn.Module):
    """A gated feed-forward network whose code calls its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(FEATURES, HIDDEN), nn.Linear(FEATURES, HIDDEN)
        self.down = nn.Linear(HIDDEN, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        batch, _ = x.shape
        return self.norm(x + self.down(functional.silu(self.up(x)) * self.gate(x))).view(
            batch, FEATURES
        )


class Plain(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(input=self.up(x), approximate="tanh"))


class Held(nn.Module):
    """Its activation is a function that is an attribute."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = activation
        self.up, self.down = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


def modules(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), activation(), nn.Linear(HIDDEN, FEATURES))


def _relu(path: str, model: nn.Module) -> nn.Module:
    """The model with a function in the code of a module replaced by hand."""
    owner = model.get_submodule(path)
    functions = {name: getattr(functional, name) for name in ("gelu", "silu")}

    def forward(x: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            for name in functions:
                patch.setattr(functional, name, lambda input, **_: torch.relu(input))
            result: Tensor = type(owner).forward(owner, x)
            return result

    owner.forward = forward
    return model


CASES: dict[str, tuple[nn.Module, Callable[[nn.Module], nn.Module]]] = {
    "gelu": (modules(nn.GELU), lambda _: modules(nn.ReLU)),
    "tanh": (modules(lambda: nn.GELU("tanh")), lambda _: modules(nn.ReLU)),
    "silu": (modules(nn.SiLU), lambda _: modules(nn.ReLU)),
    "mish": (modules(nn.Mish), lambda _: modules(nn.ReLU)),
    "called": (nn.Sequential(Gated()), lambda m: _relu("0", m)),
    "itself": (Gated(), lambda m: _relu("", m)),
    "options": (nn.Sequential(Plain()), lambda m: _relu("0", m)),
    "attribute": (Held(functional.gelu), lambda _: Held(torch.relu)),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10, deadline=None)
@given(rows=st.integers(0, 5), end=st.integers(1, 6), seed=st.integers(0, 99))
def test_an_activation_fades_into_relu(name: str, rows: int, end: int, seed: int) -> None:
    made, by_hand = CASES[name]
    old = copy.deepcopy(made).double()
    new = by_hand(copy.deepcopy(made)).double()
    new.load_state_dict(old.state_dict())
    x = 3 * torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(seed)).double()
    model = copy.deepcopy(old)
    keys = set(model.state_dict())

    relufier = Relufier(model, end)
    assert torch.equal(model(x), old(x))
    for step in range(1, end):
        relufier.step()
        assert relufier.share == step / end
        (blend,) = [each for each in model.modules() if isinstance(each, Blended)]
        y = blend.activation(x) * (1 - step / end) + torch.relu(x) * step / end
        assert torch.allclose(blend(x), y, rtol=0, atol=1e-7)
    assert set(model.state_dict()) == keys
    relufier.step()
    assert torch.equal(model(x), new(x))
    assert not any(isinstance(each, Blended) for each in model.modules())
    assert sum(isinstance(each, nn.ReLU) for each in model.modules()) == 1
    assert set(model.state_dict()) == keys


def test_densities_are_the_shares_of_positive_features() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(modules(nn.GELU), modules(nn.SiLU)).train()
    relufier = Relufier(model, 4)
    x = torch.randn(50, FEATURES)
    hidden = {}
    for path, layer, inputs in (("0.1", model[0][0], x), ("1.1", model[1][0], None)):
        seen = model[0](x) if inputs is None else inputs
        hidden[path] = float((layer(seen) > 0).float().mean())
    assert relufier.densities(x) == pytest.approx(hidden)
    assert model.training
    relufier.finish()
    after = relufier.densities(x)
    assert after["0.1"] == pytest.approx(hidden["0.1"])  # nothing was trained
    assert set(after) == set(hidden)


def test_what_is_no_smooth_relu_or_stands_before_the_layers_stays() -> None:
    before = nn.Sequential(nn.SiLU(), nn.Linear(FEATURES, FEATURES))  # as in adaLN
    others = nn.Sequential(
        nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.LeakyReLU(0.1), nn.Dropout(), nn.ReLU()
    )
    model = nn.Sequential(before, others, modules(nn.GELU))
    plain = copy.deepcopy(model)
    Relufier(model, 1).step()
    changed = [path for path, each in model.named_modules() if type(each) is nn.ReLU]
    assert changed == ["1.4", "2.1"]
    assert str(model[0]) == str(plain[0])
    assert str(model[1]) == str(plain[1])


def test_an_activation_that_layers_share_becomes_relu_in_all_of_them() -> None:
    gelu = nn.GELU()
    model = nn.Sequential(modules(lambda: gelu), modules(lambda: gelu))
    relufier = Relufier(model, 2)
    assert set(relufier.densities(torch.randn(3, FEATURES))) == {"0.1", "1.1"}
    relufier.finish()
    assert type(model[0][1]) is type(model[1][1]) is nn.ReLU


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_fast_path_of_torchs_own_layer_computes_what_its_activation_says(steps: int) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True).eval()
    relufier = Relufier(layer, 3)
    x = torch.randn(2, 5, 16)
    for _ in range(steps):
        relufier.step()
    with torch.no_grad():
        fast = layer(x)
    assert torch.allclose(fast, layer(x).detach(), atol=1e-6)
    assert list(relufier.densities(x)) == ["activation"]


def _transformers(name: str) -> nn.Module:
    made = pytest.importorskip("transformers")
    small: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
    small |= {"hidden_size": 16, "intermediate_size": 64}
    config = {
        "Bert": lambda: made.BertConfig(**small),
        "Llama": lambda: made.LlamaConfig(**small),
        "GPT2": lambda: made.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50),
    }[name]()
    model: nn.Module = getattr(made, f"{name}Model")(config)
    return model.eval()


@pytest.mark.parametrize("name", ["Bert", "Llama", "GPT2"])
def test_every_feed_forward_of_transformers_is_found(name: str) -> None:
    torch.manual_seed(0)
    model = _transformers(name)
    tokens = torch.arange(12).reshape(2, 6)
    old = model(tokens)[0]
    relufier = Relufier(model, 2)
    assert torch.equal(model(tokens)[0], old)
    before = relufier.densities(tokens)
    assert len(before) == 2
    assert all(0.2 < each < 0.8 for each in before.values())
    relufier.finish()
    assert sum(type(each) is nn.ReLU for each in model.modules()) == 2
    assert not torch.allclose(model(tokens)[0], old, atol=1e-4)


def test_training_goes_on_through_the_blend_and_compiles() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), Gated(), nn.Linear(FEATURES, 1))
    x = torch.randn(64, FEATURES)
    wanted = x[:, :1] * x[:, 1:2]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    relufier = Relufier(model, 150, begin=20)
    first = float(functional.mse_loss(model(x), wanted).detach())
    for _ in range(200):
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), wanted)
        loss.backward()
        optimizer.step()
        relufier.step()
    relufier.finish()
    assert float(loss.detach()) < first / 20
    compiled = sparsecc.compile(model, example_inputs=(x,))
    assert torch.allclose(torch.as_tensor(compiled(x)), model(x).detach(), atol=1e-5)


def test_it_goes_on_from_a_state() -> None:
    first, second = modules(nn.GELU), modules(nn.GELU)
    second.load_state_dict(first.state_dict())
    x = torch.randn(4, FEATURES)
    ours, theirs = Relufier(first, 8), Relufier(second, 8)
    for _ in range(5):
        ours.step()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(first(x), second(x))
    ours.finish()
    with pytest.raises(ModelError, match="no state to go on from"):
        ours.load_state_dict({"steps": 3})
    with pytest.raises(ModelError, match="state_dict"):
        theirs.load_state_dict({})


class Untraceable(Gated):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.down(functional.silu(self.up(x)))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), "no activation behind a linear layer"),
        (nn.Sequential(Untraceable()), "the code of '0' calls .*control flow"),
        (Untraceable(), "the code of 'Untraceable' calls .*control flow"),
    ],
)
def test_what_cannot_become_relu_is_said(model: nn.Module, says: str) -> None:
    plain = str(model)
    with pytest.raises(ModelError, match=says) as caught:
        Relufier(model, 3)
    assert "nn.GELU()" in str(caught.value)
    assert str(model) == plain


def test_a_schedule_that_ends_before_it_begins() -> None:
    with pytest.raises(PlanError, match="from step 3 to 3"):
        Relufier(modules(nn.GELU), 3, begin=3)
