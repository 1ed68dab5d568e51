"""Gradients of attention over kept tiles on a GPU, forward and backward beside torch's."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import attention as forward
from benchmarks.gpu.attention import DENSE, Flags, blocks_of, dtype_of, tokens_of
from benchmarks.gpu.family import BOUNDS, Case, Check, Family, answers_of, error_of
from benchmarks.gpu.timing import DEVICE, Run
from sparsecc.backends.cuda.kernel import Arch, Kernel, Launch
from sparsecc.backends.cuda.launch import launch
from sparsecc.backends.cuda.recipe import dtype_of as type_of
from sparsecc.backends.cuda.rows.attention import ATTENTION_BACKWARD as ROWS
from sparsecc.backends.cuda.rows.attention import KEYS, QUERIES
from sparsecc.backends.cuda.tiles import Rule
from sparsecc.ops.block_sparse_attention import seen_by_blocks, seen_by_rule
from sparsecc.torch.tile_attention import TileAttention
from sparsecc.torch.tile_kernels import gradients

BLOCK = 128
SHARES = (1.0, 0.2)
"""Of blocks."""


def check(kernel: Kernel, arch: Arch) -> Check:
    """A row of the table on a thousand tokens, with a rule and blocks of 64; heads share keys."""
    heads, shared, tokens, rule = 2, 1, 1000, Rule(700, 200, 30)
    dtype, features = dtype_of(kernel), kernel.constants["D"]
    q, grad = (tokens_of(heads, tokens, features, dtype)[0] for _ in range(2))
    k, v, _ = tokens_of(shared, tokens, features, dtype)
    kept = np.random.default_rng().random((heads, 16, 16)) < 0.4
    kept[1, 3:5] = False
    orders = None
    if kernel.constants["ORDERED"]:
        orders = np.stack([np.random.default_rng().permutation(tokens) for _ in range(heads)])
    made = TileAttention(
        *(tokens, tokens, features),
        kept=kept,
        **dataclasses.asdict(rule),
        orders=orders,
        rows=kernel.constants["ROWS"],
        arch=arch,
    ).to(DEVICE)
    seen = seen_by_rule(tokens, tokens, rule.left, rule.right, rule.sinks) & seen_by_blocks(
        np.flatnonzero(kept), [*kept.shape, 64, 64], tokens, tokens
    )
    if orders is not None:
        back = np.argsort(orders, 1)
        seen = np.stack([one[at][:, at] for one, at in zip(seen, back, strict=True)])
    scale = features**-0.5
    out, lse, wanted = _expected((q, k, v, grad), torch.from_numpy(seen).to(DEVICE), scale)
    given = {"Q": q, "K": k, "V": v, "Out": out, "Grad": grad}
    ours = gradients(_poisoned, arch, given, lse, made.listed(heads), scale)
    parts = slice(1) if kernel.name.endswith(QUERIES) else slice(1, None)
    pairs = zip(ours[parts], wanted[parts], strict=True)
    worst = max(error_of(got, want) for got, want in pairs)
    return Check(worst, BOUNDS[type_of(q)])


def _poisoned(kernel: Kernel, grid: Sequence[int], given: Mapping[str, Any]) -> None:
    written = ("DK", "DV") if kernel.name.endswith(KEYS) else ("DQ", "Delta")
    for name in written:
        given[name].fill_(math.nan)
    launch(kernel, grid, given)


def _expected(
    tokens: Sequence[Tensor], seen: Tensor, scale: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The output, rounded, its sums, and what gradients of queries, keys and values are then."""
    q, k, v, grad = (each.double() for each in tokens)
    shared = k.shape[1]
    k, v = (each.repeat_interleave(q.shape[1] // shared, 1) for each in (k, v))
    scores = (scale * q @ k.mT).masked_fill(~seen, -torch.inf)
    weights = torch.nan_to_num(torch.softmax(scores, -1))
    out = (weights @ v).to(tokens[0].dtype)
    delta = (out.double() * grad).sum(-1, keepdim=True)
    of_scores = scale * weights * (grad @ v.mT - delta)
    of_keys, of_values = (
        each.unflatten(1, (shared, -1)).sum(2) for each in (of_scores.mT @ q, weights.mT @ grad)
    )
    return out, torch.logsumexp(scores, -1).float(), (of_scores @ k, of_keys, of_values)


def _both_ways(attend: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> Run:
    """A forward and its backward."""
    return lambda: torch.autograd.grad(attend(*tensors), tensors, grad)


def _given(share: float, arch: Arch) -> tuple[list[Tensor], Tensor, Flags, TileAttention]:
    """Queries, keys and values; gradients of an output; kept blocks, and attention over these."""
    sizes = forward.HEADS, forward.TOKENS, forward.FEATURES, torch.bfloat16
    tensors, grad = tokens_of(*sizes), tokens_of(*sizes)[0]
    for each in tensors:
        each.requires_grad_()
    kept = blocks_of(forward.HEADS, forward.TOKENS, BLOCK, share)
    tokens = forward.TOKENS
    made = TileAttention(
        tokens, tokens, forward.FEATURES, kept=kept, block=(BLOCK, BLOCK), arch=arch
    )
    return tensors, grad, kept, made.to(DEVICE)


def cases(arch: Arch) -> Iterator[Case]:
    """Forward and backward of the main shape of the forward."""
    for share in SHARES:
        tensors, grad, kept, made = _given(share, arch)
        attends: dict[str, Callable[..., Tensor]] = {
            name: lambda *given, which=which: forward.dense(list(given), which)()
            for name, which in DENSE.items()
        }
        attends["flex"] = lambda *given, kept=kept: forward.flexible(list(given), kept, BLOCK)()
        attends["ours"] = made
        sides = {name: _both_ways(attend, tensors, grad) for name, attend in attends.items()}
        answers, failed = answers_of(sides)
        yield Case(
            name=f"forward and backward of {forward.HEADS} heads × {forward.FEATURES}, "
            f"{forward.TOKENS} tokens, {share:.0%} of blocks of {BLOCK}",
            baselines=tuple(DENSE),
            sides={name: side for name, side in sides.items() if name not in failed},
            failed=failed,
            errors=forward.errors(answers, "flex" if "flex" in answers else "flash"),
            share=made.tiles.share,
        )


def others(arch: Arch) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Other warps and stages of either kernel for the main shape at a fifth of its blocks."""
    (q, k, v), grad, _, made = _given(SHARES[-1], arch)
    with torch.no_grad():
        out, lse = made.with_sums(q, k, v)
    tokens = {"Q": q, "K": k, "V": v, "Out": out, "Grad": grad}

    def run(part: str, warps: int, stages: int) -> Run:
        def start(kernel: Kernel, grid: Sequence[int], given: Mapping[str, Any]) -> None:
            if kernel.name.endswith(part):
                constants = kernel.launch(arch).constants
                other = Launch(constants, warps, stages, registers=255, shared=0)
                launch(dataclasses.replace(kernel, launches={arch: other}), grid, given)

        listed, scale = made.listed(forward.HEADS), forward.FEATURES**-0.5
        return functools.partial(gradients, start, arch, tokens, lse, listed, scale)

    for part, warps, stages in itertools.product((QUERIES, KEYS), (8, 4), (2, 3, 4)):
        name = f"gradients of {part}, {warps} warps, {stages} stages"
        yield name, functools.partial(run, part, warps, stages)


def checks(arch: Arch) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Every row of the backward."""
    for kernel in ROWS:
        yield kernel.name, functools.partial(check, kernel, arch)


ATTENTION_BACKWARD = Family(checks, cases, others)
"""What the backward shows the benchmark."""
