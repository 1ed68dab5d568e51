"""Mixtures of experts that torch.export cannot trace, and those that are something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.capture.experts import REWRITTEN
from sparsecc.errors import ModelError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from tests.end_to_end.mixtures import HiDreamExperts, HiDreamGate, SwiGlu

WIDTH = 16


class Routed(nn.Module):
    """A router in front of experts of transformers."""

    def __init__(self, experts: nn.Module, count: int) -> None:
        super().__init__()
        self.router, self.experts = HiDreamGate(WIDTH, count, 2), experts

    def forward(self, x: Tensor) -> Tensor:
        chosen, gates, _ = self.router(x)
        return self.experts(x.view(-1, WIDTH), chosen, gates).view(x.shape)


def of_transformers(name: str, implementation: str) -> Routed:
    """Experts with the weights of all in one tensor, in the ways that transformers has."""
    import transformers
    from transformers.models.gpt_oss import modeling_gpt_oss
    from transformers.models.mixtral import modeling_mixtral
    from transformers.models.nemotron_h import modeling_nemotron_h

    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 24}
    if name == "mixtral":
        config = transformers.MixtralConfig(**sizes, num_local_experts=5)
        built = modeling_mixtral.MixtralExperts(config)
    elif name == "gpt-oss":
        config = transformers.GptOssConfig(**sizes, num_local_experts=5)
        built = modeling_gpt_oss.GptOssExperts(config)
    else:
        config = transformers.NemotronHConfig(
            **sizes, moe_intermediate_size=24, n_routed_experts=5, mlp_hidden_act="silu"
        )
        built = modeling_nemotron_h.NemotronHExperts(config)
    config._experts_implementation = implementation
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0, 0.3)
    return Routed(built, 5)


def captured(module: nn.Module, x: Tensor) -> tuple[ir.Model, Context]:
    """The model in canonical form, once it is known to compute what the module does."""
    model, context = capture(module.eval(), (x,)), Context(verify=True)
    run(pipeline.EXACT_BEFORE, model, context)
    ops.attach_functions(model)
    session = session_of_model(model, threads=1)
    for given in (torch.randn(3, 5, WIDTH), x[:1, :1].expand(2, 5, WIDTH).contiguous()):
        made = session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]
        with torch.no_grad():
            wanted = module(given)
        wanted = (wanted[0] if isinstance(wanted, tuple) else wanted).numpy()
        assert np.abs(made - wanted).max() < 1e-5 * np.abs(wanted).max()
    return model, context


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize(
    ("name", "op_type"), [("mixtral", "MoE_silu_gated"), ("nemotron", "MoE_silu")]
)
def test_experts_of_transformers(name: str, op_type: str, implementation: str) -> None:
    torch.manual_seed(0)
    module = of_transformers(name, implementation)
    model, context = captured(module, torch.randn(2, 5, WIDTH))
    assert [node.op_type for node in model.graph if ops.is_mixture(node)] == [op_type]
    assert [each.reason for each in context.refusals] == [
        "exported with every expert on every token: experts"
    ]
    assert "forward" not in vars(module.experts)


def test_gates_that_are_clamped_are_captured_and_stay() -> None:
    torch.manual_seed(0)
    model, context = captured(of_transformers("gpt-oss", "eager"), torch.randn(2, 5, WIDTH))
    assert not [node for node in model.graph if ops.is_mixture(node)]
    assert any("no known activation" in each.reason for each in context.refusals)


def test_a_loop_over_sorted_tokens() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(HiDreamExperts(WIDTH, 24), HiDreamExperts(WIDTH, 24))
    model, context = captured(module, torch.randn(2, 5, WIDTH))
    assert sum(ops.is_mixture(node) for node in model.graph) == 2
    assert [each.reason for each in context.refusals] == [
        "exported with every expert on every token: 0, 1"
    ]
    assert not [each for each in module.modules() if "forward" in vars(each)]
    assert REWRITTEN not in model.metadata_props


class Hit(nn.Module):
    """Qwen2 in transformers 4: a loop over experts that were hit, scores beside the result."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 5, bias=False)
        self.experts = nn.ModuleList(SwiGlu(WIDTH, 24) for _ in range(5))
        self.shared_expert = SwiGlu(WIDTH, 40)
        self.shared_expert_gate = nn.Linear(WIDTH, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.view(-1, WIDTH)
        scores = self.gate(tokens)
        gates, chosen = torch.topk(scores.softmax(-1), 2, dim=-1)
        gates = gates / gates.sum(-1, keepdim=True)
        total = torch.zeros_like(tokens)
        mask = functional.one_hot(chosen, num_classes=5).permute(2, 1, 0)
        for e in mask.sum(dim=(-1, -2)).nonzero():
            slot, token = torch.where(mask[e].squeeze(0))
            made = self.experts[e](tokens[None, token].reshape(-1, WIDTH))
            total.index_add_(0, token, made * gates[token, slot, None])
        total = total + torch.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)
        return total.view(x.shape), scores


class Sigmoids(nn.Module):
    """DeepSeek in transformers 4: experts without tokens are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 5, bias=False)
        self.experts = nn.ModuleList(SwiGlu(WIDTH, 24) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, WIDTH)
        gates, chosen = torch.topk(self.gate(tokens).sigmoid(), 2, dim=-1)
        total = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            if token.numel() > 0:
                total.index_add_(0, token, expert(tokens[token]) * gates[token, slot, None])
        return total.view(x.shape)


@pytest.mark.parametrize("form", [Hit, Sigmoids])
def test_loops_with_a_router_of_scores(form: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, context = captured(form(), torch.randn(2, 5, WIDTH))
    assert sum(ops.is_mixture(node) for node in model.graph) == 1
    assert len(context.refusals) == 1


class Limited(HiDreamExperts):
    """Experts that take no more than so many tokens."""

    def infer(self, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        kept = gates.clone()
        for e in range(len(self.experts)):
            kept[(chosen == e).nonzero()[16:]] = 0
        return super().infer(x, chosen, kept)


class Doubled(HiDreamExperts):
    """Something else than the sum of the experts."""

    def infer(self, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        return super().infer(x, chosen, gates) * 1.001


@pytest.mark.parametrize("form", [Limited, Doubled])
def test_what_is_something_else_is_not_rewritten(form: type[HiDreamExperts]) -> None:
    torch.manual_seed(0)
    module = form(WIDTH, 24).eval()
    with pytest.raises(ModelError, match="torch cannot export"):
        capture(module, (torch.randn(2, 5, WIDTH),))
    assert "forward" not in vars(module)
