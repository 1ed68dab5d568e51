"""One mixture of experts, written in the ways that people and exporters write it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES, INNER, EXPERTS, CHOSEN = 16, 24, 4, 2


class Gated(nn.Module):
    """down(silu(up x) · gate x)."""

    def __init__(self, features: int = FEATURES, inner: int = INNER, bias: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(features, inner, bias=bias)
        self.gate = nn.Linear(features, inner, bias=bias)
        self.down = nn.Linear(inner, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.up(x)) * self.gate(x))


class Plain(nn.Sequential):
    """down(gelu(up x))."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, INNER), nn.GELU(), nn.Linear(INNER, FEATURES))


class Packed(nn.Module):
    """Both halves of the first product in one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(FEATURES, 2 * INNER)
        self.down = nn.Linear(INNER, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.down(functional.relu(gate) * up)


class Interleaved(Packed):
    """Rows of the one weight are gates and others in turn."""

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x)
        return self.down(functional.gelu(both[..., ::2], approximate="tanh") * both[..., 1::2])


class Listed(nn.Module):
    """Experts are modules of their own; subclasses say how they come together."""

    def __init__(
        self, expert: type[nn.Module] = Gated, experts: int = EXPERTS, chosen: int = CHOSEN
    ) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, experts, bias=False)
        self.experts = nn.ModuleList(expert() for _ in range(experts))
        self.chosen = chosen

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gates, chosen = torch.topk(functional.softmax(self.router(x), dim=-1), self.chosen, dim=-1)
        return gates / gates.sum(-1, keepdim=True), chosen


class IndexAdd(Listed):
    """Mixtral's first form: one-hot, where, index_add."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        total = torch.zeros_like(tokens)
        mask = functional.one_hot(chosen, num_classes=len(self.experts)).permute(2, 1, 0)
        for e, expert in enumerate(self.experts):
            slot, token = torch.where(mask[e])
            own = tokens[None, token].reshape(-1, FEATURES)
            total.index_add_(0, token, expert(own) * gates[token, slot, None])
        return total.view(x.shape)


class InPlace(Listed):
    """Rows that were gathered are added to and put back."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        total = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            total[token] += gates[token, slot, None] * expert(tokens[token])
        return total.view(x.shape)


class Repeated(Listed):
    """DeepSeek's first form: every token k times, rows of each expert by a mask."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        flat, again = chosen.view(-1), tokens.repeat_interleave(self.chosen, dim=0)
        made = torch.empty_like(again)
        for e, expert in enumerate(self.experts):
            made[flat == e] = expert(again[flat == e])
        total = (made.view(*gates.shape, -1) * gates.unsqueeze(-1)).sum(dim=1)
        return total.view(x.shape)


class Columns(Listed):
    """Every expert on every token, times a column of gates that were scattered into zeros."""

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.route(x)
        scores = self.router(x)
        dense = torch.zeros_like(scores).scatter(-1, chosen, gates)
        return sum(dense[..., e, None] * expert(x) for e, expert in enumerate(self.experts))


class Compared(Listed):
    """Every expert on every token, times the gates of those slots in which it was chosen."""

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.route(x)
        return sum(
            expert(x) * (gates * (chosen == e)).sum(-1, keepdim=True)
            for e, expert in enumerate(self.experts)
        )


class Masked(Listed):
    """A softmax over scores that are minus infinity where an expert was not chosen."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        best, chosen = torch.topk(scores, self.chosen, dim=-1)
        kept = torch.full_like(scores, -math.inf).scatter(-1, chosen, best)
        made = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (torch.softmax(kept, -1).unsqueeze(-1) * made).sum(-2)


class BestOne(Listed):
    """Switch: one expert a token, by ArgMax, times its probability."""

    def forward(self, x: Tensor) -> Tensor:
        shares = functional.softmax(self.router(x), dim=-1)
        hot = functional.one_hot(shares.argmax(-1), len(self.experts)).to(x.dtype)
        gates = shares * hot
        return sum(gates[..., e, None] * expert(x) for e, expert in enumerate(self.experts))


class Stacked(nn.Module):
    """The weights of all experts are in one tensor."""

    def __init__(self, experts: int = EXPERTS, chosen: int = CHOSEN) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, FEATURES, INNER) / 4)
        self.gate = nn.Parameter(torch.randn(experts, FEATURES, INNER) / 4)
        self.down = nn.Parameter(torch.randn(experts, INNER, FEATURES) / 5)
        self.count, self.chosen = experts, chosen

    route = Listed.route


class Batched(Stacked):
    """Tokens are repeated for every expert; products of stacks of matrices."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        dense = torch.zeros(tokens.shape[0], self.count).scatter(1, chosen, gates)
        again = tokens.repeat(self.count, 1).view(self.count, -1, FEATURES)
        hidden = functional.silu(torch.bmm(again, self.up)) * torch.bmm(again, self.gate)
        return (torch.bmm(hidden, self.down) * dense.t().unsqueeze(-1)).sum(0).view(x.shape)


class Einsums(Stacked):
    """One-hot vectors, and everything by einsum."""

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.route(x)
        dense = torch.einsum(
            "bsk,bske->bse", gates, functional.one_hot(chosen, self.count).to(x.dtype)
        )
        hidden = functional.silu(torch.einsum("bsd,edf->bsef", x, self.up))
        hidden = hidden * torch.einsum("bsd,edf->bsef", x, self.gate)
        return torch.einsum("bsef,efd,bse->bsd", hidden, self.down, dense)


class Dispatched(Stacked):
    """One-hot dispatch of tokens to experts and the combination of what these make."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        hot = functional.one_hot(chosen, self.count).to(x.dtype)
        sent = torch.einsum("te,td->etd", hot.sum(1), tokens)
        hidden = functional.silu(torch.einsum("etd,edf->etf", sent, self.up))
        hidden = hidden * torch.einsum("etd,edf->etf", sent, self.gate)
        made = torch.einsum("etf,efd->etd", hidden, self.down)
        combined = torch.einsum("te,etd->td", (hot * gates.unsqueeze(-1)).sum(1), made)
        return combined.view(x.shape)


class Gathered(Stacked):
    """Every token gathers the weights of its experts."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        gates, chosen = self.route(tokens)
        hidden = functional.silu(torch.einsum("td,tkdf->tkf", tokens, self.up[chosen]))
        hidden = hidden * torch.einsum("td,tkdf->tkf", tokens, self.gate[chosen])
        made = torch.einsum("tkf,tkfd->tkd", hidden, self.down[chosen])
        return torch.einsum("tkd,tk->td", made, gates).view(x.shape)


class OnTokens(Stacked):
    """Llama 4: gates multiply what goes into an expert; others get zeros."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, FEATURES)
        scores = self.router(tokens)
        best, chosen = torch.topk(scores, self.chosen, dim=1)
        kept = torch.full_like(scores, -math.inf).scatter(1, chosen, best)
        gates = torch.sigmoid(kept)
        sent = tokens.repeat(self.count, 1) * gates.transpose(0, 1).reshape(-1, 1)
        sent = sent.view(self.count, -1, FEATURES)
        hidden = torch.bmm(sent, self.gate) * functional.silu(torch.bmm(sent, self.up))
        return torch.bmm(hidden, self.down).sum(0).view(x.shape)


FORMS = (
    *(IndexAdd, InPlace, Repeated, Columns, Compared, Masked, BestOne),
    *(Batched, Einsums, Dispatched, Gathered, OnTokens),
)
EXPERT_KINDS = (Plain, Packed, Interleaved)


def tokens(kind: str = "any", batch: int = 2, length: int = 5, seed: int = 0) -> Tensor:
    """Tokens ``[batch, length, FEATURES]``; of the kind ``one`` they all go to the same experts."""
    drawn = torch.randn(batch, length, FEATURES, generator=torch.Generator().manual_seed(seed))
    return drawn.abs() if kind == "one" else drawn


def leaning(module: nn.Module) -> nn.Module:
    """A router that sends all tokens of the kind ``one`` to the same experts."""
    with torch.no_grad():
        slopes = torch.linspace(1, -1, module.router.weight.shape[0])
        module.router.weight += slopes[:, None]
    return module
