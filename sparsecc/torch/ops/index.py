"""Elements by their places: gather, scatter and their relatives."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op, as_list, plain

_SCATTER = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX reductions by their names in torch."""


def _from_start(places: Tensor, size: int) -> Tensor:
    """Negative places count from the end."""
    return torch.where(places < 0, places + size, places)


def _gather(node: NodeView) -> Function:
    axis = node.get("axis", 0)
    known = node.constant(1)
    if known is not None and known.ndim == 0:
        place = int(known)
        return lambda x, _: x.select(axis, place)
    counted = known is not None and known.size > 0 and bool((known >= 0).all())

    def gather(x: Tensor, places: Tensor) -> Tensor:
        places = places.long()
        places = places if counted else _from_start(places, x.shape[axis])
        if axis == 0 and x.dim() == 2:
            return functional.embedding(places, x)
        sizes = (*x.shape[: axis % x.dim()], *places.shape, *x.shape[axis % x.dim() + 1 :])
        return x.index_select(axis, places.reshape(-1)).reshape(sizes)

    return gather


def _gather_elements(node: NodeView) -> Function:
    axis = node.get("axis", 0)
    return lambda x, places: x.gather(axis, _from_start(places.long(), x.shape[axis]))


def _gather_nd(node: NodeView) -> Function:
    batch_dims = node.get("batch_dims", 0)

    def gather(x: Tensor, places: Tensor) -> Tensor:
        batch = x.shape[:batch_dims]
        x = x.reshape(batch.numel(), *x.shape[batch_dims:])
        flat = places.long().reshape(batch.numel(), -1, places.shape[-1])
        rows = torch.arange(len(x), device=x.device).reshape(-1, 1)
        found = x[(rows, *flat.unbind(-1))]
        return found.reshape(*places.shape[:-1], *x.shape[1 + places.shape[-1] :])

    return gather


def _scatter_elements(node: NodeView) -> Function:
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")

    def scatter(x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
        places = _from_start(places.long(), x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _SCATTER[reduction])

    return scatter


def _scatter_nd(node: NodeView) -> Function:
    reduction = node.get("reduction", "none")

    def scatter(x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
        depth = places.shape[-1]
        lead, rest = x.shape[:depth], x.shape[depth:]
        flat = torch.zeros(places.shape[:-1], dtype=torch.int64, device=x.device)
        for axis, size in enumerate(lead):
            flat = flat * size + _from_start(places[..., axis].long(), size)
        rows = x.reshape(lead.numel(), -1)
        values = updates.reshape(flat.numel(), -1)
        where = flat.reshape(-1, 1).expand_as(values)
        if reduction == "none":
            result = rows.scatter(0, where, values)
        else:
            result = rows.scatter_reduce(0, where, values, _SCATTER[reduction])
        return result.reshape(*lead, *rest)

    return scatter


def _one_hot(node: NodeView) -> Function:
    axis = node.get("axis", -1)

    def one_hot(places: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        size = int(as_list(depth)[0])
        rank = places.dim() + 1
        steps = torch.arange(size, device=places.device)
        steps = steps.reshape([-1 if a == axis % rank else 1 for a in range(rank)])
        hot = _from_start(places.long(), size).unsqueeze(axis) == steps
        return torch.where(hot, values[1], values[0])

    return one_hot


def _non_zero(x: Tensor) -> Tensor:
    return x.nonzero().t() if x.dim() else x.reshape(1).nonzero().t()


def _compress(node: NodeView) -> Function:
    axis = node.get("axis")

    def compress(x: Tensor, condition: Tensor) -> Tensor:
        x = x.reshape(-1) if axis is None else x
        return x.index_select(axis or 0, condition.nonzero().reshape(-1))

    return compress


def _trilu(node: NodeView) -> Function:
    cut = torch.triu if node.get("upper", 1) else torch.tril
    return lambda x, k=None: cut(x, 0 if k is None else int(k))


def _reverse_sequence(node: NodeView) -> Function:
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)

    def reverse(x: Tensor, lengths: Tensor) -> Tensor:
        moved = x.movedim((batch, time), (0, 1))
        steps = torch.arange(moved.shape[1], device=x.device)
        ends = lengths.reshape(-1, 1)
        places = torch.where(steps < ends, ends - 1 - steps, steps)
        rows = torch.arange(len(moved), device=x.device).reshape(-1, 1)
        return moved[rows, places].movedim((0, 1), (batch, time))

    return reverse


def _unique(node: NodeView) -> Function:
    axis, in_order = node.get("axis"), node.get("sorted", 1)

    def unique(x: Tensor) -> tuple[Tensor, ...]:
        wide = x.float() if x.dtype == torch.bfloat16 else x
        array = wide.detach().cpu().numpy()
        found = np.unique(array, True, True, True, axis=axis, equal_nan=False)
        values, first, inverse, counts = map(np.asarray, found)
        inverse = inverse.reshape(-1)
        if not in_order:
            order = np.argsort(first)
            values = np.take(values, order, axis or 0)
            first, counts = first[order], counts[order]
            inverse = np.argsort(order)[inverse]
        arrays = (values, first, inverse, counts)
        made = [torch.from_numpy(np.ascontiguousarray(a)).to(x.device) for a in arrays]
        return made[0].to(x.dtype), *made[1:]

    return unique


def _tensor_scatter(node: NodeView) -> Function:
    """Writes a piece of a cache, for every sequence from its own place on."""
    axis, mode = node.get("axis", -2), node.get("mode", "linear")

    def scatter(past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
        along = axis % past.dim()
        steps = torch.arange(update.shape[along], device=past.device)
        places = steps[None] + (0 if starts is None else starts.reshape(-1, 1))
        places = places % past.shape[along] if mode == "circular" else places
        shape = [1] * past.dim()
        shape[0], shape[along] = places.shape
        return past.scatter(along, places.reshape(shape).expand_as(update), update)

    return scatter


OPS: dict[str, Op] = {
    "Compress": Op(_compress),
    "Gather": Op(_gather, learned=(0,)),
    "GatherElements": Op(_gather_elements),
    "GatherND": Op(_gather_nd),
    "NonZero": Op(plain(_non_zero)),
    "OneHot": Op(_one_hot, host=(1,)),
    "ReverseSequence": Op(_reverse_sequence),
    "Scatter": Op(_scatter_elements),
    "ScatterElements": Op(_scatter_elements),
    "ScatterND": Op(_scatter_nd),
    "TensorScatter": Op(_tensor_scatter),
    "Trilu": Op(_trilu, host=(1,)),
    "Unique": Op(_unique),
}
