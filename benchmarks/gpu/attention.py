"""Attention over kept tiles on a GPU, beside torch's dense attention and FlexAttention."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks.gpu.family import BOUNDS, Case, Check, Family, answers_of, error_of
from benchmarks.gpu.timing import DEVICE, Run
from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch, Kernel, Launch
from sparsecc.backends.cuda.launch import launch
from sparsecc.backends.cuda.rows.attention import ATTENTION as ROWS
from sparsecc.backends.cuda.tiles import Rule, Tiles, pack
from sparsecc.cost.gpu.layers import Scores, attention, longest_of
from sparsecc.ops.block_sparse_attention import seen_by_blocks, seen_by_rule

HEADS, TOKENS, FEATURES = 24, 32768, 128
KEPT = (1.0, 0.5, 0.2, 0.1)
DENSE = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
Flags = NDArray[np.bool_]


def blocks_of(heads: int, tokens: int, block: int, share: float, seed: int = 0) -> Flags:
    """As many random blocks in every row, the diagonal among them, ``[heads, down, across]``."""
    side = tokens // block
    score = np.random.default_rng(seed).random((heads, side, side), np.float32)
    score[:, np.arange(side), np.arange(side)] = 2
    count = max(1, round(share * side))
    kept = np.zeros(score.shape, bool)
    np.put_along_axis(kept, np.argpartition(-score, count - 1, 2)[..., :count], True, 2)
    return kept


def tokens_of(heads: int, tokens: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    """Fresh random queries, keys and values ``[1, heads, tokens, features]``."""
    return [torch.randn(1, heads, tokens, features, device=DEVICE, dtype=dtype) for _ in range(3)]


def prepared(
    kernel: Kernel, arch: Arch, tensors: list[Tensor], tiles: Tiles, orders: Tensor | None = None
) -> tuple[Callable[[], object], Tensor, Tensor]:
    """A launch, and its outputs, filled with NaN."""
    q, k, v = tensors
    out, lse = torch.full_like(q, math.nan), q.new_full(q.shape[:3], math.nan, dtype=torch.float32)
    arrays = (tiles.order(q.shape[1]), tiles.starts, tiles.full, tiles.at, tiles.bits)
    names = ("Order", "Rows", "Full", "Columns", "Bits")
    indices = {
        name: torch.from_numpy(array).to(DEVICE) for name, array in zip(names, arrays, strict=True)
    } | ({} if orders is None else {"Places": orders})
    given = kernels.arguments(
        {"Q": q, "K": k, "V": v, "Out": out},
        {"Lse": lse},
        indices=indices,
        sizes=kernels.sizes_of(tiles),
        scale=q.shape[3] ** -0.5,
    )
    grid = kernels.grid_of(indices["Order"], q)
    return functools.partial(launch, kernel, grid, given), out, lse


def check(kernel: Kernel, arch: Arch) -> Check:
    """A row of the table on a thousand tokens, with a rule and blocks of 64."""
    dtype = next(name for name in BOUNDS if getattr(torch, name) == dtype_of(kernel))
    heads, tokens, rule = 3, 1000, Rule(700, 200, 30)
    tensors = tokens_of(heads, tokens, kernel.constants["D"], dtype_of(kernel))
    kept = np.random.default_rng().random((heads, 16, 16)) < 0.4
    kept[1, 3:5] = False
    orders = None
    there = torch.arange(tokens, device=DEVICE).expand(heads, tokens)
    if kernel.constants["ORDERED"]:
        there = torch.stack([torch.randperm(tokens, device=DEVICE) for _ in range(heads)])
        orders = there.int()
    tile = kernel.constants["ROWS"], kernel.constants_on(arch)["COLUMNS"]
    tiles = pack(tokens, tokens, tile, kept=kept, rule=rule)
    run, out, lse = prepared(kernel, arch, tensors, tiles, orders)
    run()
    seen = seen_by_rule(tokens, tokens, rule.left, rule.right, rule.sinks) & seen_by_blocks(
        np.flatnonzero(kept), [*kept.shape, 64, 64], tokens, tokens
    )
    moved = there[None, ..., None]
    q, k, v = (each.double().take_along_dim(moved, 2) for each in tensors)
    scores = (q @ k.mT) * q.shape[3] ** -0.5
    scores = scores.masked_fill(~torch.from_numpy(seen).to(DEVICE), -torch.inf)
    wanted = torch.nan_to_num(torch.softmax(scores, -1)) @ v
    sums = torch.logsumexp(scores, -1)
    error = (out.double().take_along_dim(moved, 2) - wanted).abs().max() / wanted.abs().max()
    ours = lse.double().take_along_dim(there[None], 2)
    both = torch.where(sums.isneginf() & ours.isneginf(), 0, ours - sums).abs().max()
    worst = torch.stack([error, both]).nan_to_num(math.inf).max()
    return Check(float(worst), BOUNDS[dtype])


def checks(arch: Arch) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Every row of the forward."""
    for kernel in ROWS:
        yield kernel.name, functools.partial(check, kernel, arch)


def dtype_of(kernel: Kernel) -> torch.dtype:
    """Of its queries."""
    return torch.bfloat16 if kernel.arguments["Q"] == "*bf16" else torch.float16


def dense(tensors: list[Tensor], backend: SDPBackend) -> Callable[[], Tensor]:
    """Torch's attention."""

    def run() -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(*tensors)

    return run


@functools.cache
def _flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False, mode="max-autotune-no-cudagraphs")


def flexible(tensors: list[Tensor], kept: Flags, block: int) -> Callable[[], Tensor]:
    """FlexAttention over the same blocks, all of which it knows to be full."""
    counts = torch.from_numpy(kept.sum(-1)[None].astype(np.int32)).to(DEVICE)
    columns = np.argsort(~kept, axis=-1, kind="stable")[None].astype(np.int32)
    columns = torch.from_numpy(columns).to(DEVICE)
    none = torch.zeros_like(counts)
    mask = BlockMask.from_kv_blocks(none, columns, counts, columns, BLOCK_SIZE=block)
    return lambda: _flex()(*tensors, block_mask=mask)


def _ours(
    arch: Arch, tensors: list[Tensor], kept: Flags, block: int, rows: int
) -> tuple[Run, Tensor, Tiles]:
    kind = "bfloat16" if tensors[0].dtype == torch.bfloat16 else "float16"
    kernel = kernels.kernel_of(kind, tensors[0].shape[3], rows, ordered=False)
    tile = rows, kernel.constants_on(arch)["COLUMNS"]
    tokens = tensors[0].shape[2]
    tiles = pack(tokens, tokens, tile, kept=kept, block=(block, block))
    run, out, _ = prepared(kernel, arch, tensors, tiles)
    return run, out, tiles


def cases(arch: Arch) -> Iterator[Case]:
    """The shapes of the issue, blocks of half the size, and heads of 64 features."""
    settings = [(HEADS, FEATURES, 128, share) for share in KEPT]
    settings += [(HEADS, FEATURES, 64, 0.2), (2 * HEADS, 64, 128, 0.2)]
    for heads, features, block, share in settings:
        tensors = tokens_of(heads, TOKENS, features, torch.bfloat16)
        kept = blocks_of(heads, TOKENS, block, share)
        sides: dict[str, Run] = {name: dense(tensors, each) for name, each in DENSE.items()}
        sides["flex"] = flexible(tensors, kept, block)
        shares, outputs = {}, {}
        every = Scores(heads, TOKENS, TOKENS, features, float(TOKENS**2))
        tasks = {name: attention(every, arch, tall=128, dense=True) for name in DENSE}
        for rows in (128, 64):
            name = f"ours-m{rows}"
            sides[name], outputs[name], tiles = _ours(arch, tensors, kept, block, rows)
            shares[rows] = tiles.share
            scores = tiles.share * TOKENS**2
            some = dataclasses.replace(every, kept=scores, longest=longest_of(tiles))
            tasks[name] = attention(some, arch, tall=rows)
        made, failed = answers_of(sides)
        made |= outputs
        yield Case(
            name=f"{heads} heads × {features}, {TOKENS} tokens, {share:.0%} of blocks of {block}",
            baselines=tuple(DENSE),
            sides={name: side for name, side in sides.items() if name not in failed},
            failed=failed,
            errors=errors(made, "flex" if "flex" in made else "flash"),
            share=min(shares.values()),
            tasks=tasks,
        )


def errors(answers: dict[str, Tensor], reference: str) -> dict[str, float]:
    """Largest difference of the sparse sides from one of them, over its largest value."""
    if reference not in answers:
        return {}
    return {
        name: error_of(answer, answers[reference])
        for name, answer in answers.items()
        if name not in DENSE
    }


def others(arch: Arch) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Other tiles, warps and stages for the main shape at a fifth of its blocks."""
    tensors = tokens_of(HEADS, TOKENS, FEATURES, torch.bfloat16)
    kept = blocks_of(HEADS, TOKENS, 128, 0.2)

    def made(rows: int, columns: int, warps: int, stages: int) -> Run:
        kernel = kernels.kernel_of("bfloat16", FEATURES, rows, ordered=False)
        other = Launch({"COLUMNS": columns}, warps, stages, registers=255, shared=0)
        kernel = dataclasses.replace(kernel, launches={arch: other})
        tiles = pack(TOKENS, TOKENS, (rows, columns), kept=kept, block=(128, 128))
        return prepared(kernel, arch, tensors, tiles)[0]

    for rows, columns, warps, stages in itertools.product(
        (128, 64), (64, 128, 32), (8, 4), (2, 3, 4)
    ):
        if rows * columns * stages <= 128 * 128 * 2:
            name = f"m{rows} n{columns}, {warps} warps, {stages} stages"
            yield name, functools.partial(made, rows, columns, warps, stages)


ATTENTION = Family(checks, cases, others)
