"""Reductions, sums along an axis, largest elements."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparsecc.torch.ops.table import Builder, Function, NodeView, Op, as_list

Axes = tuple[int, ...]
Reduction = Callable[[Tensor, Axes, bool], Tensor]


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.double().mean(axes, keepdim=keep).to(x.dtype)


def _extreme(function: Function, least: bool) -> Reduction:
    """The largest or smallest; of no element at all, what any other would replace."""

    def reduce(x: Tensor, axes: Axes, keep: bool) -> Tensor:
        if x.numel():
            return function(x, axes, keepdim=keep)
        if x.is_floating_point():
            worst: float = -math.inf if least else math.inf
        else:
            bits = torch.bool if x.dtype == torch.bool else None
            limits = None if bits else torch.iinfo(x.dtype)
            worst = float(not least) if limits is None else limits.min if least else limits.max
        return x.sum(axes, keepdim=keep, dtype=x.dtype).fill_(worst)

    return reduce


def _prod(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _norm_1(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _norm_2(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """By vector_norm, whose gradient at 0 is 0."""
    if not x.is_floating_point():
        return _norm_2(x.double(), axes, keep).to(x.dtype)
    return torch.linalg.vector_norm(x, 2, axes, keepdim=keep)


def _log_sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x, axes, keep).log()


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


def _sum_square(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


_AXES_AS_INPUT = {"ReduceSum": 13}
"""From which opset on the axes are an input; 18 for those that are not named."""


def _reduction(name: str, reduce: Reduction) -> Builder:
    def build(node: NodeView) -> Function:
        keep = bool(node.get("keepdims", 1))
        if node.opset < _AXES_AS_INPUT.get(name, 18):
            axes = node.get("axes")
            return lambda x: reduce(x, _all_if_none(axes, x), keep)
        nothing = bool(node.get("noop_with_empty_axes", 0))
        known = node.numbers(1) if node.has(1) else []

        def reduction(x: Tensor, given: Tensor | None = None) -> Tensor:
            axes = as_list(given) if known is None else known
            if axes or not nothing:
                return reduce(x, _all_if_none(axes, x), keep)
            # torch takes no axes for all of them: a last axis of one element instead
            return reduce(x.unsqueeze(-1), (x.dim(),), False)

        return reduction

    return build


def _all_if_none(axes: list[int] | None, x: Tensor) -> Axes:
    return tuple(axis % x.dim() for axis in axes) if axes else tuple(range(x.dim()))


def _arg(largest: bool) -> Builder:
    """The place of the first, or last, of the largest elements."""

    def build(node: NodeView) -> Function:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        last = node.get("select_last_index", 0)

        def place(x: Tensor) -> Tensor:
            x = x.flip(axis) if last else x
            best = (x == (x.amax if largest else x.amin)(axis, keepdim=True)).to(torch.uint8)
            found = best.argmax(axis, keepdim=keep)  # the first of equal ones, unlike x.argmax
            return x.shape[axis] - 1 - found if last else found

        return place

    return build


def _running(function: Function) -> Builder:
    """Sums or products along an axis, up to every element, with or without it."""

    def build(node: NodeView) -> Function:
        exclusive, reverse = node.get("exclusive", 0), node.get("reverse", 0)
        first = 0 if function is torch.cumsum else 1

        def running(x: Tensor, along: Tensor) -> Tensor:
            axis = int(along)
            x = x.flip(axis) if reverse else x
            result = function(x, axis, dtype=x.dtype)
            if exclusive:
                start = torch.full_like(x.narrow(axis, 0, 1), first)
                result = torch.cat([start, result.narrow(axis, 0, x.shape[axis] - 1)], axis)
            return result.flip(axis) if reverse else result

        return running

    return build


def _top_k(node: NodeView) -> Function:
    axis, fixed = node.get("axis", -1), node.get("k")
    largest, in_order = bool(node.get("largest", 1)), node.get("sorted", 1)

    def top_k(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = fixed if k is None else int(k)
        # a stable sort gives the first of equal elements, which torch.topk does not promise
        values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
        values, places = values.narrow(axis, 0, count), places.narrow(axis, 0, count)
        if in_order:
            return values, places
        places, order = torch.sort(places, dim=axis)
        return values.gather(axis, order), places

    return top_k


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _norm_1,
    "ReduceL2": _norm_2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(torch.amax, least=True),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(torch.amin, least=False),
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
}

OPS: dict[str, Op] = {
    **{name: Op(_reduction(name, function), host=(1,)) for name, function in _REDUCTIONS.items()},
    "ArgMax": Op(_arg(largest=True)),
    "ArgMin": Op(_arg(largest=False)),
    "CumProd": Op(_running(torch.cumprod), host=(1,)),
    "CumSum": Op(_running(torch.cumsum), host=(1,)),
    "TopK": Op(_top_k, host=(1,)),
}
