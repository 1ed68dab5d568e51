import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import sparsecc
from examples.video_dit.model import VideoDiT
from sparsecc.errors import BackendError, PlanError
from sparsecc.passes.attention.plan import patterns_of
from sparsecc.search.attentions import PlanAttention, PlanHead, PlanOnline
from sparsecc.search.plan import Plan
from sparsecc.torch import Steps, optimize

GRID = "3+5x4x6"
TOKENS = 123
ONLINE = PlanOnline(steps=5, full=1, searches=(1, 3), sparsity=0.8)
FULL = PlanHead(mode="full", density=1)
HEADS = (
    (FULL,) * 4,
    (FULL, PlanHead(mode="diagonal", setting=1, density=0.5), FULL, FULL),
    (
        PlanHead(mode="multi-diagonal", setting=1, density=0.5),
        PlanHead(mode="skip", density=0),
        PlanHead(mode="vertical", setting=1, keys=(1,), density=0.5),
        FULL,
    ),
    (FULL,) * 4,
)


def planned(heads=HEADS, block=64, grid=GRID, **changes):
    entries = tuple(
        PlanAttention(
            name=f"attention.{at}",
            grid=grid,
            block=block,
            heads=each,
            time_weight=0.5,
            most_loss=1.0,
            predicted_ms=1.0,
            dense_ms=2.0,
            **changes,
        )
        for at, each in enumerate(heads)
    )
    return Plan(sparsecc="", model_hash="", target="cuda-sm_90", spec="dense", attention=entries)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = VideoDiT().eval()
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return made


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 3, 5, 8, 12), torch.tensor([0.3, 0.7]), torch.tensor([[0, 1, 2]] * 2)


class Masked(TorchFunctionMode):
    """The n-th attention of a module under the mask of the n-th entry of a plan."""

    def __init__(self, plan):
        super().__init__()
        self.entries = list(plan.attention)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        seen = torch.from_numpy(np.stack([mask(each) for each in patterns_of(self.entries.pop(0))]))
        return torch.nan_to_num(func(*args, attn_mask=seen, **kwargs))


def mask(pattern):
    tokens = np.repeat(np.repeat(pattern.kept, pattern.block, 0), pattern.block, 1)
    tokens = tokens[:TOKENS, :TOKENS]
    if pattern.order is None:
        return tokens
    back = np.argsort(pattern.order)
    return tokens[back][:, back]


def twin(model, plan, inputs):
    with torch.no_grad(), Masked(plan):
        return model(*inputs)


@torch.no_grad()
def test_a_video_transformer_is_its_masked_twin(model, inputs):
    plan, dense = planned(), model(*inputs)
    wanted, weights = twin(model, plan, inputs), set(model.state_dict())
    assert optimize(model, plan, inputs) is model
    got = model(*inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert (got - dense).abs().max() > 1e-3  # blocks are left out
    assert set(model.state_dict()) == weights
    torch.testing.assert_close(copy.deepcopy(model)(*inputs), got)
    one = [each[:1] for each in inputs]  # another batch, the same tokens
    torch.testing.assert_close(model(*one), got[:1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_compiles_as_one_graph(model, inputs):
    optimize(model, planned(), inputs)
    wanted = model(*inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), wanted)


def test_gradients_are_those_of_the_masked_twin(model, inputs):
    plan, video = planned(), inputs[0].requires_grad_()
    with Masked(plan):
        wanted = torch.autograd.grad(model(*inputs).sum(), video)
    optimize(model, plan, inputs)
    got = torch.autograd.grad(model(*inputs).sum(), video)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_video_of_another_size_is_refused(model, inputs):
    optimize(model, planned(), inputs)
    with pytest.raises(BackendError, match="of another attention"):
        model(torch.randn(2, 3, 4, 8, 12), *inputs[1:])


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 3 * 128), nn.Linear(128, 64)

    def forward(self, x):
        heads = 4 * self.qkv(x).view(1, -1, 3, 2, 64).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*heads.unbind())
        return x + self.out(y.transpose(1, 2).reshape(1, -1, 128))


@torch.no_grad()
def test_a_searched_plan_gives_what_its_artifact_gives():
    torch.manual_seed(0)
    model = nn.Sequential(Layer(), Layer()).eval()
    draws = [torch.randn(1, 3 + 4 * 8 * 8, 64) for _ in range(3)]
    made = sparsecc.compile(
        model,
        example_inputs=(draws[0],),
        dynamic_shapes=({},),
        sparsity="dense",
        attention="3+4x8x8",
        calibration=[{"input": each.numpy()} for each in draws],
        executor="serial",
    )
    assert not any(each.is_dense for each in made.plan.attention)
    x = torch.randn(draws[0].shape)
    dense, wanted = model(x), torch.from_numpy(np.asarray(made(input=x.numpy())))
    got = optimize(model, made.plan, [x])(x)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)  # scores of up to a hundred
    assert (got - dense).abs().max() > 1e-2


@torch.no_grad()
def test_a_plan_that_searches_online_samples_as_its_artifact_does():
    torch.manual_seed(0)
    model = nn.Sequential(Layer(), Layer()).eval()
    draws = [torch.randn(1, 3 + 4 * 8 * 8, 64) for _ in range(10)]
    made = sparsecc.compile(
        model,
        example_inputs=(draws[0],),
        dynamic_shapes=({},),
        sparsity="dense",
        attention="3+4x8x8",
        online="10",
        executor="serial",
    )
    theirs, dense = made.steps(), model(draws[9])
    wanted = [torch.from_numpy(np.asarray(theirs(input=x.numpy()))) for x in draws]
    weights = set(model.state_dict())
    optimize(model, made.plan, draws[:1])
    steps = Steps(model)
    got = [model(x) for x in draws]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    assert (got[9] - dense).abs().max() > 1e-2  # it keeps what a search has found
    assert set(model.state_dict()) == weights
    steps.begin()
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="give Steps what"):
        fast(draws[0])
    Steps(fast)
    torch.testing.assert_close([fast(x) for x in draws], got)


class Twice(nn.Module):
    def forward(self, x):
        for _ in range(2):
            x = functional.scaled_dot_product_attention(x, x, x)
        return x


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (planned(HEADS[:1]), "leaves out no blocks"),
        (planned(HEADS[:3]), "has 3 attentions, the module calls .* 4 times over 123 tokens"),
        (planned(grid="3+5x4x5"), "4 attentions, .* 0 times over 103 tokens"),
        (planned(tuple(each[:2] for each in HEADS)), "'blocks.0' has 4 heads, the plan 2"),
        (planned(block=32, online=ONLINE), "blocks of 32 tokens, kernels have 64"),
    ],
)
def test_a_plan_of_another_model(model, inputs, plan, said):
    before = model(*inputs)
    with pytest.raises(PlanError, match=said):
        optimize(model, plan, inputs)
    assert torch.equal(model(*inputs), before)


def test_a_module_of_two_attentions_and_one_that_has_a_plan(model, inputs):
    with pytest.raises(PlanError, match=re.escape("'' calls scaled_dot_product_attention more")):
        optimize(Twice(), planned(HEADS[1:3]), [torch.randn(1, 4, TOKENS, 64)])
    optimize(model, planned(), inputs)
    with pytest.raises(PlanError, match="already"):
        optimize(model, planned(), inputs)
