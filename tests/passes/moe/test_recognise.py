"""Mixtures of experts of every form become one op, and compute what they did."""

from __future__ import annotations

import io
import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.errors import ModelError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from tests.passes.moe import forms
from tests.passes.moe.forms import FEATURES

OLDER_FORMS = [form for form in forms.FORMS if form is not forms.IndexAdd]
"""Torch's older exporter writes an index_add that fails for an expert without tokens."""


def rewritten(module: nn.Module, x: Tensor) -> tuple[ir.Model, Context]:
    model, context = capture(module.eval(), (x,)), Context(verify=True)
    run(pipeline.EXACT_BEFORE, model, context)
    return model, context


def mixtures(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if ops.is_mixture(node)]


def largest_error(model: ir.Model, module: nn.Module, *inputs: Tensor) -> float:
    """Over what ONNX Runtime computes without the library, relative to the largest output."""
    ops.attach_functions(model)
    session = session_of_model(model, threads=1)
    errors = []
    for x in inputs:
        (made,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            wanted = module(x).numpy()
        errors.append(np.abs(made - wanted).max() / np.abs(wanted).max())
    return float(max(errors))


@pytest.mark.parametrize("form", forms.FORMS, ids=lambda form: form.__name__)
def test_every_form_becomes_the_op(form: type[nn.Module]) -> None:
    """Also with experts that no token goes to, and all tokens on the same ones."""
    torch.manual_seed(0)
    module = forms.leaning(form())
    model, context = rewritten(module, forms.tokens())
    (node,) = mixtures(model)
    assert node.op_type == "MoE_silu_gated"
    assert not context.refusals
    assert not [each for each in model.graph if each.op_type in ("Einsum", "NonZero", "Gemm")]
    best = module.router(forms.tokens("one")).argmax(-1)
    assert len(best.unique()) == 1
    given = forms.tokens(), forms.tokens(batch=7, seed=1), forms.tokens("one", batch=1)
    assert largest_error(model, module, *given) < 1e-6


def of_older_exporter(module: nn.Module) -> tuple[ir.Model, Context]:
    file, context = io.BytesIO(), Context(verify=True)
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(module, (forms.tokens(),), file, dynamo=False, opset_version=17, **names)
    model = capture(onnx.load_from_string(file.getvalue()))
    run(pipeline.EXACT_BEFORE, model, context)
    return model, context


def test_what_does_not_run_for_some_choices_stays() -> None:
    torch.manual_seed(0)
    model, context = of_older_exporter(forms.IndexAdd().eval())
    assert not mixtures(model)
    assert "does not run for every choice" in context.refusals[0].reason


@pytest.mark.parametrize("form", OLDER_FORMS, ids=lambda form: form.__name__)
def test_what_torchscript_wrote(form: type[nn.Module]) -> None:
    """The older exporter writes other nodes, with sizes that are computed."""
    torch.manual_seed(0)
    module = form().eval()
    model, _ = of_older_exporter(module)
    assert len(mixtures(model)) == 1
    assert largest_error(model, module, forms.tokens(), forms.tokens("one", batch=3)) < 1e-6


@pytest.mark.parametrize(
    ("expert", "op_type"),
    [
        (forms.Plain, "MoE_gelu_bias"),
        (forms.Packed, "MoE_relu_gated_bias"),
        (forms.Interleaved, "MoE_gelu_tanh_gated_bias"),
    ],
)
@pytest.mark.parametrize("form", [forms.IndexAdd, forms.Columns, forms.Repeated])
def test_experts_of_other_kinds(
    expert: type[nn.Module], op_type: str, form: type[forms.Listed]
) -> None:
    torch.manual_seed(0)
    module = form(expert)
    model, _ = rewritten(module, forms.tokens())
    assert [node.op_type for node in mixtures(model)] == [op_type]
    assert largest_error(model, module, forms.tokens(seed=2)) < 1e-6


@pytest.mark.parametrize(
    ("form", "experts", "chosen"),
    [
        (forms.IndexAdd, 2, 1),
        (forms.IndexAdd, 3, 3),
        (forms.Compared, 7, 5),
        (forms.Gathered, 33, 2),
    ],
)
def test_numbers_of_experts(form: type[nn.Module], experts: int, chosen: int) -> None:
    torch.manual_seed(0)
    module = form(experts=experts, chosen=chosen)
    model, _ = rewritten(module, forms.tokens())
    assert mixtures(model)
    assert largest_error(model, module, forms.tokens(batch=3)) < 1e-6


class Shared(nn.Module):
    """A shared expert beside the chosen ones, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.routed, self.shared = (
            nn.LayerNorm(FEATURES),
            forms.IndexAdd(),
            forms.Gated(),
        )

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        return x + self.routed(normal) + self.shared(normal)


def test_a_shared_expert_stays_an_ordinary_layer() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Shared(), Shared())
    model, _ = rewritten(module, forms.tokens())
    assert len(mixtures(model)) == 2
    assert sum(node.op_type in ("MatMul", "Gemm") for node in model.graph) == 2 * (3 + 1)
    assert largest_error(model, module, forms.tokens(seed=3)) < 1e-6


class Full(forms.Stacked):
    """GShard: experts take so many tokens, more than the example has, and drop the others."""

    capacity = 40

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        hot = functional.one_hot(chosen, self.count)
        place = torch.cumsum(hot.view(-1, self.count), 0).view(hot.shape) * hot - 1
        seat = functional.one_hot(place.clamp(0, self.capacity - 1), self.capacity)
        seat = (seat * (hot * (place < self.capacity)).unsqueeze(-1)).to(x.dtype)
        sent = torch.einsum("tkec,td->ecd", seat, tokens)
        hidden = functional.silu(torch.bmm(sent, self.up)) * torch.bmm(sent, self.gate)
        made = torch.bmm(hidden, self.down)
        combined = torch.einsum("tkec,tk->tec", seat, gates)
        return torch.einsum("tec,ecd->td", combined, made).view(x.shape)


class Clamped(forms.Listed):
    """An activation that the op has not."""

    class Expert(forms.Gated):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(functional.silu(self.up(x)).clamp(max=7.0) * self.gate(x))

    forward = forms.Columns.forward


class Unequal(forms.Columns):
    """Experts of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(forms.Gated(inner=8 * (1 + e)) for e in range(4))


class Idle(forms.Columns):
    """A router that also chooses experts that do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, 6, bias=False)


class Dropping(forms.Stacked):
    """Every expert on every token; of those that an expert drops, the gates are zero."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        hot = functional.one_hot(chosen, self.count)
        fits = torch.cumsum(hot.sum(1), 0) <= 6
        dense = (hot * gates.unsqueeze(-1)).sum(1) * fits
        hidden = functional.silu(torch.einsum("td,edf->etf", tokens, self.up))
        hidden = hidden * torch.einsum("td,edf->etf", tokens, self.gate)
        made = torch.einsum("etf,efd->etd", hidden, self.down)
        return torch.einsum("te,etd->td", dense, made).view(x.shape)


class Normalised(forms.Columns):
    """Experts are normalised before they are summed: no mixture of their outputs."""

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.route(x)
        dense = torch.zeros_like(self.router(x)).scatter(-1, chosen, gates)
        made = [functional.normalize(expert(x), dim=-1) for expert in self.experts]
        return sum(dense[..., e, None] * each for e, each in enumerate(made))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Unequal(), "unequal shapes: [16, 16], [16, 24], [16, 32], [16, 8]"),
        (Idle(), "4 experts, and a router with 6 outputs"),
        (Clamped(Clamped.Expert), "no known activation"),
        (Normalised(), "no known activation"),
        (Full(), "full drop tokens"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_nearly_a_mixture_stays_with_the_reason(module: nn.Module, reason: str) -> None:
    torch.manual_seed(0)
    model, context = rewritten(module, forms.tokens())
    assert not mixtures(model)
    assert [each.reason for each in context.refusals if reason in each.reason]
    assert largest_error(model, module, forms.tokens("one")) < 1e-5


@pytest.mark.parametrize("form", [forms.IndexAdd, forms.Batched])
def test_more_chosen_experts_than_there_are_is_an_error(form: type[nn.Module]) -> None:
    """A number in a file; torch itself refuses it in a module."""
    model = capture(form().eval(), (forms.tokens(),))
    (choice,) = (node for node in model.graph if node.op_type == "TopK")
    many = ir.Value(name="many", const_value=ir.tensor(np.array([7], np.int64), name="many"))
    model.graph.register_initializer(many)
    choice.replace_input_with(1, many)
    with pytest.raises(ModelError, match="7 experts are chosen of 4") as raised:
        run(pipeline.EXACT_BEFORE, model, Context())
    assert raised.value.node == choice.name
    with pytest.raises(ModelError, match=r"torch cannot export.*k not in range"):
        capture(form(chosen=7).eval(), (forms.tokens(),))


class Noisy(forms.IndexAdd):
    """Shazeer's noisy router: a normal number on every score, as large as the token says."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Linear(FEATURES, forms.EXPERTS)
        nn.init.constant_(self.noise.bias, -60.0)  # so small that it decides nothing

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.router(x)
        scores = scores + torch.randn_like(scores) * functional.softplus(self.noise(x))
        gates, chosen = torch.topk(scores, self.chosen, dim=-1)
        return functional.softmax(gates, dim=-1), chosen


class Jittered(forms.Columns):
    """Switch's jitter while it trains: what the router reads is times a number near one."""

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().route(x * (1 + 1e-9 * torch.rand_like(x)))


@pytest.mark.parametrize(
    ("module", "noise"), [(Noisy(), "RandomNormal"), (Jittered(), "RandomUniform")]
)
def test_noise_of_a_router_stays_in_front(module: nn.Module, noise: str) -> None:
    model, _ = rewritten(module, forms.tokens())
    assert len(mixtures(model)) == 1
    made = [node for node in model.graph if node.op_type.startswith(noise)]
    order = list(model.graph)
    assert len(made) == 1
    assert order.index(made[0]) < order.index(mixtures(model)[0])
    assert largest_error(model, module, forms.tokens(seed=3)) < 1e-6


def test_tokens_that_are_dropped_by_their_gates_are_dropped() -> None:
    torch.manual_seed(0)
    module = forms.leaning(Dropping())
    model, _ = rewritten(module, forms.tokens())
    assert mixtures(model)
    assert largest_error(model, module, forms.tokens("one", batch=9)) < 1e-6


def test_gates_that_are_no_numbers_go_on(recwarn: pytest.WarningsRecorder) -> None:
    """NaN in a router gives NaN for its token, whatever the runtime chooses, or an error."""
    torch.manual_seed(0)
    module = forms.IndexAdd()
    model, _ = rewritten(module, forms.tokens())
    ops.attach_functions(model)
    session, x = session_of_model(model, threads=1), forms.tokens().numpy()
    x[0, 0, 0] = math.nan
    (made,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.isnan(made[0, 0]).all()
    assert np.isfinite(made[0, 1:]).all()
