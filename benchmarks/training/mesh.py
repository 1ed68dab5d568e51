"""Which processes do what together, and what they send each other, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from sparsecc.simulate import Choice

Group = Any


@dataclass(frozen=True)
class Mesh:
    """Where this process is, and its groups; None where it is alone in one.

    Attributes:
        choice: The degrees.
        data_size: Data-parallel groups.
        tensor_rank: Its place among those that share its matrices.
        data_rank: Its place among data-parallel groups.
        stage: Its place in the pipeline.
        tensor: Those that share its matrices.
        data: Those with the same weights.
        experts: Those that share the experts.
        expert_data: Those with the same experts.
        before: Rank of its peer in the stage before; None in the first.
        after: Rank of its peer in the stage after; None in the last.
    """

    choice: Choice
    data_size: int
    tensor_rank: int
    data_rank: int
    stage: int
    tensor: Group
    data: Group
    experts: Group
    expert_data: Group
    before: int | None
    after: int | None

    @property
    def expert_rank(self) -> int:
        """Its place among those that share the experts."""
        within = self.data_rank % self.choice.expert
        return within * self.choice.tensor + self.tensor_rank

    @property
    def expert_ranks(self) -> int:
        """How many share the experts."""
        return self.choice.tensor * self.choice.expert


def mesh(choice: Choice) -> Mesh:
    """The mesh of all processes; every process has to make it.

    Tensor parallelism is innermost, then data, then the pipeline.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    tensor, expert = choice.tensor, choice.expert
    data = world // (tensor * choice.pipeline)

    def place(each: int) -> tuple[int, int, int]:
        return each // (tensor * data), each // tensor % data, each % tensor

    def grouped(key: Callable[[int, int, int], tuple[int, ...]]) -> Group:
        """The group of those with the same key as this process."""
        members: dict[tuple[int, ...], list[int]] = {}
        for each in range(world):
            members.setdefault(key(*place(each)), []).append(each)
        made = [dist.new_group(ranks) for ranks in members.values() if len(ranks) > 1]
        several = [ranks for ranks in members.values() if len(ranks) > 1]
        mine = [g for g, ranks in zip(made, several, strict=True) if rank in ranks]
        return mine[0] if mine else None

    stage, at, tensor_rank = place(rank)
    step = tensor * data
    return Mesh(
        choice=choice,
        data_size=data,
        tensor_rank=tensor_rank,
        data_rank=at,
        stage=stage,
        tensor=grouped(lambda p, d, t: (p, d)),
        data=grouped(lambda p, d, t: (p, t)),
        experts=grouped(lambda p, d, t: (p, d // expert)),
        expert_data=grouped(lambda p, d, t: (p, d % expert, t)),
        before=rank - step if stage else None,
        after=rank + step if stage < choice.pipeline - 1 else None,
    )


def close(mesh: Mesh) -> None:
    """Give its groups back."""
    for group in (mesh.tensor, mesh.data, mesh.experts, mesh.expert_data):
        if group is not None:
            dist.destroy_process_group(group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        return all_gather(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return reduce_scatter(grads[0], ctx.group), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        return reduce_scatter(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_gather(grads[0], ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, sent: list[int], received: list[int], group: Group
    ) -> torch.Tensor:
        ctx.counts = sent, received, group
        return all_to_all(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        sent, received, group = ctx.counts
        return all_to_all(grads[0], received, sent, group), None, None, None


def all_gather(x: torch.Tensor, group: Group) -> torch.Tensor:
    """The rows of all, in the order of their ranks."""
    out = x.new_empty(x.shape[0] * dist.get_world_size(group), *x.shape[1:])
    dist.all_gather_single(out, x.contiguous(), group=group)
    return out


def reduce_scatter(x: torch.Tensor, group: Group) -> torch.Tensor:
    """This process's rows of the sum."""
    out = x.new_empty(x.shape[0] // dist.get_world_size(group), *x.shape[1:])
    dist.reduce_scatter_single(out, x.contiguous(), group=group)
    return out


def all_to_all(x: torch.Tensor, sent: list[int], received: list[int], group: Group) -> torch.Tensor:
    """Rows to and from each process, so many."""
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
    return out


def gather(x: torch.Tensor, group: Group) -> torch.Tensor:
    """:func:`all_gather` with gradients."""
    return x if group is None else _Gather.apply(x, group)


def scatter(x: torch.Tensor, group: Group) -> torch.Tensor:
    """:func:`reduce_scatter` with gradients."""
    return x if group is None else _Scatter.apply(x, group)


def total(x: torch.Tensor, group: Group) -> torch.Tensor:
    """The sum over all; every process goes on with the same, so that gradients are its own."""
    return x if group is None else _Sum.apply(x, group)


def exchange(x: torch.Tensor, sent: list[int], received: list[int], group: Group) -> torch.Tensor:
    """:func:`all_to_all` with gradients."""
    return x if group is None else _Exchange.apply(x, sent, received, group)


def sum_gradients(parameters: Iterable[torch.nn.Parameter], group: Group) -> None:
    """Sum the gradients of a group, all at once."""
    grads = [each.grad for each in parameters if each.grad is not None]
    if group is None or not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
