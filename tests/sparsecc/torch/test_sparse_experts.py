import numpy as np
import pytest
import torch
from torch.nn import functional

from sparsecc.backends.cuda.interpret import interpret
from sparsecc.errors import BackendError, TargetError
from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.ops.moe import mixture
from sparsecc.torch import SparseExperts
from sparsecc.torch import sparse_experts as module
from sparsecc.torch.sparse_experts import grouped_experts

EXPERTS, FEATURES, INNER = 6, 48, 80


def experts_of(gated=True, bias=True, dtype=torch.float16, **how):
    torch.manual_seed(0)
    up, gate = (torch.randn(EXPERTS, INNER, FEATURES).to(dtype) / 7 for _ in range(2))
    down = (torch.randn(EXPERTS, INNER, FEATURES).to(dtype) / 9).mT  # not contiguous
    biases = {"up_bias": torch.randn(EXPERTS, INNER).to(dtype)} if bias else {}
    return SparseExperts(up, down, gate if gated else None, **biases, **how)


def inputs(*tokens, slots=2, dtype=torch.float16):
    torch.manual_seed(1)
    x = torch.randn(*tokens, FEATURES).to(dtype)
    gates, experts = torch.rand(*tokens, EXPERTS).topk(slots)
    return x, experts, gates


def every_expert(made, x, experts, gates):
    """In float64: all experts on all tokens, times gates or zero."""
    share = torch.zeros(*x.shape[:-1], EXPERTS, dtype=torch.float64)
    share = share.scatter_add(-1, experts, gates.double())
    wide = {name: None if each is None else each.double() for name, each in made.named_buffers()}
    total = torch.zeros_like(x, dtype=torch.float64)
    for e in range(EXPERTS):
        of = {name: each[e] for name, each in wide.items()}
        hidden = functional.silu(functional.linear(x.double(), of["up"], of.get("up_bias")))
        if "gate" in of:
            hidden = hidden * functional.linear(x.double(), of["gate"], of.get("gate_bias"))
        y = functional.linear(hidden, of["down"], of.get("down_bias"))
        total += share[..., e, None] * y
    return total


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_is_every_expert_times_its_gate(gated, bias, dtype):
    made = experts_of(gated, bias, dtype)
    given = inputs(2, 5, dtype=dtype)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(
        made(*given).double(), every_expert(made, *given), rtol=step, atol=step
    )
    assert made(given[0][:0], given[1][:0], given[2][:0]).shape == (0, 5, FEATURES)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_runs_on_a_gpu_through_the_interpreter(gated, bias, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(module, "arch_of", lambda _: "sm_90")
    monkeypatch.setattr(module, "launch", lambda *how: interpret(how[0], "sm_90", *how[1:]))
    made = experts_of(gated, bias)
    x, experts, gates = inputs(7)
    weights = weights_of(made, torch.float16)
    ours = module._cuda(x.T.contiguous().T, experts, gates.half(), *weights, "silu")
    wanted = every_expert(made, x, experts, gates.half())
    torch.testing.assert_close(ours.double(), wanted, rtol=2e-3, atol=2e-3)


def test_takes_the_place_of_the_experts_of_mixtral():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = transformers.MixtralConfig(
        hidden_size=64, intermediate_size=96, num_local_experts=8, num_experts_per_tok=2
    )
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    block = MixtralSparseMoeBlock(config).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    block = block.bfloat16()
    x = torch.randn(2, 9, 64).bfloat16()
    wanted = block(x)
    router = block.gate.weight
    (wanted_grad,) = torch.autograd.grad(wanted.float().square().sum(), router)
    activated, other = block.experts.gate_up_proj.chunk(2, 1)
    block.experts = SparseExperts(activated, block.experts.down_proj, other)
    made = torch.compile(block, fullgraph=True)(x)
    assert (made - wanted).abs().max() < 2e-2 * wanted.abs().max()
    (grad,) = torch.autograd.grad(made.float().square().sum(), router)
    assert (grad - wanted_grad).abs().max() < 4e-2 * wanted_grad.abs().max()


def weights_of(made, dtype):
    weights = (made.up, made.gate, made.down, made.up_bias, made.gate_bias, made.down_bias)
    return [None if each is None else each.to(dtype) for each in weights]


@pytest.mark.parametrize(("gated", "bias"), [(True, True), (False, False)])
@pytest.mark.parametrize("trained", [False, True])
def test_the_operator_is_well_formed(gated, bias, trained):
    weights = weights_of(experts_of(gated, bias), torch.float32)
    x, experts, gates = inputs(4, dtype=torch.float32)
    for each in (x, gates, *weights[: 3 * trained]):
        if each is not None:
            each.requires_grad_()
    torch.library.opcheck(grouped_experts, (x, experts, gates, *weights, "silu"))


@pytest.mark.parametrize("activation", [each.name for each in ACTIVATIONS])
def test_means_what_the_op_means_and_so_do_gradients(activation):
    """In float64, against numpy, and against differences of it."""
    weights = weights_of(experts_of(), torch.float64)
    x, experts, gates = inputs(3, dtype=torch.float64)
    given = [each.requires_grad_() for each in (x, gates.double(), *weights)]

    def ours(x, gates, *weights):
        return grouped_experts(x, experts, gates, *weights, activation)

    names = ("up", "gate", "down", "up_bias", "gate_bias", "down_bias")
    plain = {name: each.detach().numpy() for name, each in zip(names, weights, strict=True)}
    wanted = mixture(activation, x.detach().numpy(), experts.numpy(), gates.detach().numpy(), plain)
    np.testing.assert_allclose(ours(*given).detach().numpy(), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(ours, given, fast_mode=True)


def test_compiles_whole_for_any_number_of_tokens_and_travels_with_the_module():
    made, other = experts_of(), experts_of(bias=False, up_bias=torch.zeros(EXPERTS, INNER).half())
    compiled = torch.compile(made, fullgraph=True, dynamic=True)
    for tokens in (3, 8):
        assert torch.equal(compiled(*inputs(tokens)), made(*inputs(tokens)))
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(*inputs(3)), made(*inputs(3)))
    assert "6 experts, 48, 80, silu, gated, torch.float16" in repr(made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, e, g: (x[:, 1:], e, g), r"x \[4, 47\]"),
        (lambda x, e, g: (x.float(), e, g), "x .* of torch.float32"),
        (lambda x, e, g: (x, e[:3], g), r"experts \[3, 2\] and gates \[4, 2\]"),
        (lambda x, e, g: (x, e[:, :0], g[:, :0]), "one slot at least"),
        (lambda x, e, g: (x, e.int(), g), "experts are torch.int32"),
        (lambda x, e, g: (x, e - EXPERTS, g), "an expert is outside of 0 … 5"),
        (lambda x, e, g: (x, e, g * np.nan), "a gate is not a number"),
    ],
)
def test_inputs_that_do_not_fit(change, said):
    with pytest.raises(BackendError, match=said):
        experts_of()(*change(*inputs(4)))


def test_weights_that_do_not_fit(monkeypatch):
    up, down = torch.ones(2, 32, 16).half(), torch.ones(2, 16, 32).half()
    with pytest.raises(BackendError, match=r"up \[2, 32, 16\], down \[2, 32, 16\]"):
        SparseExperts(up, up)
    with pytest.raises(BackendError, match=r"a bias \[2, 16\] of up"):
        SparseExperts(up, down, up_bias=torch.ones(2, 16).half())
    with pytest.raises(BackendError, match=r"a bias \[2, 32\] of gate"):
        SparseExperts(up, down, gate_bias=torch.ones(2, 32).half())
    with pytest.raises(BackendError, match=r"bfloat16 on cpu and torch\.float16 on cpu"):
        SparseExperts(up, down.bfloat16())
    with pytest.raises(BackendError, match="float32 features"):
        SparseExperts(up.float(), down.float())
    with pytest.raises(BackendError, match="multiples of 16"):
        SparseExperts(up[:, :31], down[..., :31])
    with pytest.raises(BackendError, match="no activation 'tanh'"):
        SparseExperts(up, down, activation="tanh")
    monkeypatch.setattr(module, "USUAL_ARCH", "sm_75")
    with pytest.raises(TargetError, match="sm_75"):
        SparseExperts(up, down)
