"""Small models with mixtures of experts, faithful to the published ones; weights are random."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.time_moe import Attention, SwiGlu, TimeMoe, rotated


class HiDreamGate(nn.Module):
    """Softmax over the experts, the best two, not renormalised."""

    def __init__(self, width: int, count: int, chosen: int) -> None:
        super().__init__()
        self.weight, self.chosen = nn.Parameter(torch.randn(count, width) / 4), chosen

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None]:
        shares = functional.linear(x.view(-1, x.shape[-1]), self.weight).softmax(dim=-1)
        gates, chosen = torch.topk(shares, k=self.chosen, dim=-1, sorted=False)
        return chosen, gates, None


class HiDreamExperts(nn.Module):
    """Tokens sorted by expert, in a loop whose turns are known only when it runs."""

    def __init__(self, width: int, inner: int, count: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.shared_experts = SwiGlu(width, inner // 2)
        self.experts = nn.ModuleList(SwiGlu(width, inner) for _ in range(count))
        self.gate, self.chosen = HiDreamGate(width, count, chosen), chosen

    def forward(self, x: Tensor) -> Tensor:
        chosen, gates, _ = self.gate(x)
        flat = x.view(-1, x.shape[-1])
        y = self.infer(flat, chosen.view(-1), gates.view(-1, 1)).view(x.shape)
        return y + self.shared_experts(x)

    def infer(self, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        total, order = torch.zeros_like(x), chosen.argsort()
        ends = chosen.bincount().cpu().numpy().cumsum(0)
        tokens = order // self.chosen
        for e, end in enumerate(ends):
            start = 0 if e == 0 else ends[e - 1]
            if start == end:
                continue
            rows = tokens[start:end]
            made = self.experts[e](x[rows]) * gates[order[start:end]]
            total.scatter_reduce_(0, rows.view(-1, 1).repeat(1, x.shape[-1]), made, reduce="sum")
        return total


class _Modulated(nn.Module):
    """Norms whose shift, scale and gate come from a conditioning vector."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation, self.parts = nn.Linear(width, parts * width), parts

    def modulations(self, condition: Tensor) -> tuple[Tensor, ...]:
        made = self.modulation(functional.silu(condition)).unsqueeze(1)
        return made.chunk(self.parts, dim=-1)

    def moved(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return self.norm(x) * (1 + scale) + shift


class HiDreamSingle(_Modulated):
    """One stream of image and text tokens: ``x``, and a condition ``[batch, width]``."""

    def __init__(self, width: int = 32, heads: int = 4, inner: int = 48) -> None:
        super().__init__(width, 6)
        self.attn = Attention(width, heads, causal=False, normed=True)
        self.ff_i = HiDreamExperts(width, inner)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulations(condition)
        x = x + gate * self.attn(self.moved(x, shift, scale))
        return x + gate_ff * self.ff_i(self.moved(x, shift_ff, scale_ff))


class HiDreamDual(_Modulated):
    """Two streams that attend to both; only image tokens go to experts."""

    def __init__(self, width: int = 32, heads: int = 4, inner: int = 48) -> None:
        super().__init__(width, 12)
        self.qkv_i, self.qkv_t = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.out_i, self.out_t = nn.Linear(width, width), nn.Linear(width, width)
        self.ff_i, self.ff_t, self.heads = HiDreamExperts(width, inner), SwiGlu(width, inner), heads

    def forward(self, x: Tensor, text: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.modulations(condition)
        image, other = parts[:6], parts[6:]
        streams = self.qkv_i(self.moved(x, *image[:2])), self.qkv_t(self.moved(text, *other[:2]))
        q, k, v = torch.cat(streams, dim=1).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        made = functional.scaled_dot_product_attention(rotated(q), rotated(k), v)
        made = made.transpose(1, 2).flatten(2)
        x = x + image[2] * self.out_i(made[:, : x.shape[1]])
        text = text + other[2] * self.out_t(made[:, x.shape[1] :])
        x = x + image[5] * self.ff_i(self.moved(x, image[3], image[4]))
        return x, text + other[5] * self.ff_t(self.moved(text, other[3], other[4]))


class _Hidden(nn.Module):
    """The last hidden state of a model of transformers for token ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, use_cache=False).last_hidden_state


VOCABULARY = 64
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def mixtral() -> nn.Module:
    """Softmax, the best two renormalised."""
    from transformers import MixtralConfig, MixtralModel

    config = MixtralConfig(**_COMMON, intermediate_size=48, num_local_experts=4)
    return _Hidden(MixtralModel(config))


def qwen2() -> nn.Module:
    """A shared expert times a sigmoid beside the chosen ones, which are not renormalised."""
    from transformers import Qwen2MoeConfig, Qwen2MoeModel

    sizes = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}
    config = Qwen2MoeConfig(**_COMMON, **sizes, num_experts=8, num_experts_per_tok=3)
    return _Hidden(Qwen2MoeModel(config))


def qwen3() -> nn.Module:
    """Renormalised."""
    from transformers import Qwen3MoeConfig, Qwen3MoeModel

    config = Qwen3MoeConfig(
        **_COMMON,
        moe_intermediate_size=24,
        head_dim=8,
        norm_topk_prob=True,
        num_experts=8,
        num_experts_per_tok=2,
    )
    return _Hidden(Qwen3MoeModel(config))


class Llama4(nn.Module):
    """Its block of experts: sigmoid gates that multiply tokens, and a shared expert.

    Alone, because torch cannot export the complex numbers of its rotary embedding.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers import Llama4TextConfig
        from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

        sizes = {"hidden_size": 32, "intermediate_size": 24}
        config = Llama4TextConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)
        self.feed_forward = Llama4TextMoe(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(x)[0].view(x.shape)


def pangu() -> nn.Module:
    """256 experts, eight a token of sigmoid gates, a shared expert; latent attention."""
    from transformers import DeepseekV3Config, DeepseekV3Model

    sizes = {
        "intermediate_size": 48,
        "moe_intermediate_size": 8,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    }
    return _Hidden(
        DeepseekV3Model(DeepseekV3Config(**_COMMON | sizes | {"num_key_value_heads": 4}))
    )


LENGTH = 9


def _ids(seed: int, *, alike: bool = False) -> tuple[Tensor, ...]:
    drawn = torch.randint(0, VOCABULARY, (2, LENGTH), generator=_generator(seed))
    return (torch.full_like(drawn, 5) if alike else drawn,)


def _series(seed: int, *, alike: bool = False) -> tuple[Tensor, ...]:
    drawn = torch.randn(2, LENGTH, generator=_generator(seed))
    return (torch.full_like(drawn, 0.7) if alike else drawn,)


def _tokens(seed: int, *, alike: bool = False) -> tuple[Tensor, ...]:
    return _images(seed, alike=alike)[:1]


def _images(seed: int, *, alike: bool = False) -> tuple[Tensor, ...]:
    drawn = torch.randn(2, LENGTH, 32, generator=_generator(seed))
    condition = torch.randn(2, 32, generator=_generator(seed + 1))
    return (drawn[:1, :1].expand_as(drawn).contiguous() if alike else drawn), condition


def _both(seed: int, *, alike: bool = False) -> tuple[Tensor, ...]:
    x, condition = _images(seed, alike=alike)
    return x, torch.randn(2, 4, 32, generator=_generator(seed + 2)), condition


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MODELS = {
    "mixtral": (mixtral, _ids, 2),
    "qwen2": (qwen2, _ids, 2),
    "qwen3": (qwen3, _ids, 2),
    "llama4": (Llama4, _tokens, 1),
    "pangu": (pangu, _ids, 1),
    "time": (TimeMoe, _series, 2),
    "hidream single": (HiDreamSingle, _images, 1),
    "hidream dual": (HiDreamDual, _both, 1),
}
"""Name → how it is built, its inputs for a seed, and how many mixtures it has."""


def model(name: str) -> nn.Module:
    """A model with random weights of a size at which its layers matter."""
    torch.manual_seed(0)
    built: nn.Module = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[-1]))
    return built
