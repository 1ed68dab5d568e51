"""The layers of one process: its part of every matrix and its experts."""

from __future__ import annotations

import zlib

import torch
from torch import nn
from torch.nn import functional

from benchmarks.training import mesh as net
from benchmarks.training.mesh import Mesh
from sparsecc.simulate.model import Kind, Model


class Weights:
    """Makes the same weights on any mesh: whole ones by name, of which a process takes its part."""

    def __init__(self, mesh: Mesh, dtype: torch.dtype) -> None:
        self.mesh, self.dtype = mesh, dtype

    def part(
        self, name: str, inputs: int, outputs: int, split: int | None = None, joined: int = 1
    ) -> nn.Parameter:
        """A matrix [inputs, outputs], split over tensor-parallel processes along an axis.

        ``joined`` matrices lie beside one another along that axis, and each is split.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        whole = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
        whole *= inputs**-0.5
        if split is not None:
            size, rank = self.mesh.choice.tensor, self.mesh.tensor_rank
            pieces = whole.chunk(joined, dim=split)
            whole = torch.cat([piece.chunk(size, dim=split)[rank] for piece in pieces], dim=split)
        return nn.Parameter(whole.to(self.dtype).contiguous())


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square normalisation."""
    return functional.rms_norm(x, weight.shape, weight)


def activated(x: torch.Tensor) -> torch.Tensor:
    """SwiGLU: one half gates the other."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


class Attention(nn.Module):
    """Causal attention with its heads shared out."""

    def __init__(self, model: Model, weights: Weights, name: str) -> None:
        super().__init__()
        a = model.attention
        self.model, self.mesh = model, weights.mesh
        self.heads = a.heads // self.mesh.choice.tensor
        self.inputs = weights.part(f"{name}.qkv", model.d, 3 * a.heads * a.key_dim, 1, joined=3)
        self.out = weights.part(f"{name}.out", a.heads * a.value_dim, model.d, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of this process [t, d], normalised, to the same."""
        full = net.gather(x, self.mesh.tensor) @ self.inputs
        q, k, v = (
            part.view(-1, self.model.sequence, self.heads, self.model.attention.key_dim).transpose(
                1, 2
            )
            for part in full.chunk(3, dim=-1)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return net.scatter(
            seen.transpose(1, 2).flatten(0, 1).flatten(1) @ self.out, self.mesh.tensor
        )


class FeedForward(nn.Module):
    """A gated feed-forward with its hidden features shared out."""

    def __init__(self, model: Model, width: int, weights: Weights, name: str) -> None:
        super().__init__()
        self.mesh = weights.mesh
        self.up = weights.part(f"{name}.up", model.d, 2 * width, 1, joined=2)
        self.down = weights.part(f"{name}.down", width, model.d, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of this process [t, d], normalised, to the same."""
        hidden = activated(net.gather(x, self.mesh.tensor) @ self.up)
        return net.scatter(hidden @ self.down, self.mesh.tensor)


class Experts(nn.Module):
    """The experts of this process; tokens come from all that share them, and go back."""

    def __init__(self, model: Model, weights: Weights, name: str) -> None:
        super().__init__()
        self.model, self.mesh = model, weights.mesh
        self.own = model.experts // self.mesh.expert_ranks
        self.router = weights.part(f"{name}.router", model.d, model.experts)
        first = self.mesh.expert_rank * self.own
        names = [f"{name}.{each}" for each in range(first, first + self.own)]
        width = model.expert_width
        self.up = nn.ParameterList(weights.part(f"{n}.up", model.d, 2 * width) for n in names)
        self.down = nn.ParameterList(weights.part(f"{n}.down", width, model.d) for n in names)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of this process [t, d], normalised, to the same."""
        gates, chosen = (x @ self.router).softmax(-1).topk(self.model.top_k)
        order = chosen.flatten().argsort(stable=True)
        copies = x[order // self.model.top_k]
        counts = chosen.flatten().bincount(minlength=self.model.experts)
        answers = self._elsewhere(copies, counts)
        weighted = answers * gates.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, order // self.model.top_k, weighted)

    def _elsewhere(self, copies: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """What the experts make of copies that are sorted by expert, wherever these are."""
        group, ranks = self.mesh.experts, self.mesh.expert_ranks
        if group is None:
            return self._compute(copies, counts.tolist())
        same = [self.own] * ranks
        coming = net.all_to_all(counts, same, same, group).view(ranks, self.own)
        sent = counts.view(ranks, self.own).sum(1).tolist()
        received = coming.sum(1).tolist()
        arrived = net.exchange(copies, sent, received, group)
        experts = torch.arange(self.own).repeat(ranks).repeat_interleave(coming.flatten())
        order = experts.argsort(stable=True)
        made = self._compute(arrived[order], coming.sum(0).tolist())
        back = torch.empty_like(made).index_copy(0, order, made)
        return net.exchange(back, received, sent, group)

    def _compute(self, tokens: torch.Tensor, counts: list[int]) -> torch.Tensor:
        parts = tokens.split(counts)
        made = [
            activated(part @ up) @ down
            for part, up, down in zip(parts, self.up, self.down, strict=True)
        ]
        return torch.cat(made)


class Layer(nn.Module):
    """A layer with a feed-forward or with experts, one of them shared by all tokens."""

    def __init__(self, model: Model, kind: Kind, weights: Weights, name: str) -> None:
        super().__init__()
        self.attention = Attention(model, weights, f"{name}.attention")
        width = model.dense_width if kind == "dense" else model.shared * model.expert_width
        self.dense = FeedForward(model, width, weights, f"{name}.dense") if width else None
        self.experts = None if kind == "dense" else Experts(model, weights, f"{name}.experts")
        self.norms = nn.ParameterList(
            nn.Parameter(torch.ones(model.d, dtype=weights.dtype)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of this process [t, d] to the same."""
        x = x + self.attention(norm(x, self.norms[0]))
        seen = norm(x, self.norms[1])
        for part in (self.dense, self.experts):
            if part is not None:
                x = x + part(seen)
        return x


class Embedding(nn.Module):
    """Features of tokens; each process has a part of the vocabulary."""

    def __init__(self, model: Model, weights: Weights) -> None:
        super().__init__()
        self.mesh = weights.mesh
        self.rows = weights.part("embedding", model.vocabulary, model.d, 0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Numbers of all tokens to the features of those of this process."""
        here = tokens - self.mesh.tensor_rank * len(self.rows)
        known = (here >= 0) & (here < len(self.rows))
        found = functional.embedding(here.where(known, 0), self.rows)
        return net.scatter(found * known[:, None], self.mesh.tensor)


class Head(nn.Module):
    """Loss of the next token; each process has the scores of a part of the vocabulary."""

    def __init__(self, model: Model, weights: Weights) -> None:
        super().__init__()
        self.mesh = weights.mesh
        self.out = weights.part("head", model.d, model.vocabulary, 1)

    def forward(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Tokens of this process and the targets of all to the summed loss of all."""
        scores = net.gather(x, self.mesh.tensor) @ self.out
        here = targets - self.mesh.tensor_rank * scores.shape[1]
        known = (here >= 0) & (here < scores.shape[1])
        picked = scores.gather(1, here.where(known, 0)[:, None])[:, 0] * known
        if self.mesh.tensor is None:
            return (scores.logsumexp(1) - picked).sum()
        largest = scores.detach().amax(1)
        net.dist.all_reduce(largest, net.dist.ReduceOp.MAX, group=self.mesh.tensor)
        sums = net.total((scores - largest[:, None]).exp().sum(1), self.mesh.tensor)
        return (sums.log() + largest - net.total(picked, self.mesh.tensor)).sum()
