"""Attention that searches for its blocks while it samples, on a GPU beside dense attention."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import attention as forward
from benchmarks.gpu.attention import DENSE, dtype_of, tokens_of
from benchmarks.gpu.family import Case, Check, Family, answers_of, error_of
from benchmarks.gpu.timing import DEVICE, Run
from sparsecc.backends.cuda.kernel import Arch, Kernel, Launch
from sparsecc.backends.cuda.launch import launch
from sparsecc.backends.cuda.rows.attention import ATTENTION_SEARCH as ROWS
from sparsecc.backends.cuda.rows.attention import BLOCK
from sparsecc.search.attentions import PlanOnline
from sparsecc.torch.block_search import masses_by_kernel
from sparsecc.torch.online_attention import OnlineAttention

BOUND = 2e-5
"""Of masses, relative to the largest: sums are float32."""
_ONLINE = PlanOnline(steps=50, full=10, searches=(10, 30), sparsity=0.8)
_SEARCH, _KEEP = 10, 11
"""A step of that which searches, and one that keeps what was found."""


def check(kernel: Kernel, arch: Arch) -> Check:
    """A row of the table on a thousand tokens; heads share keys."""
    features, dtype = kernel.constants["D"], dtype_of(kernel)
    q, (k, *_) = (tokens_of(heads, 1000, features, dtype) for heads in (4, 2))
    scale = features**-0.5
    made = masses_by_kernel(_poisoned, arch, q[0], k, BLOCK, scale)
    shared = k.double().repeat_interleave(2, 1)
    weights = torch.softmax(scale * q[0].double() @ shared.mT, -1)[0]
    beyond = -len(weights[0]) % BLOCK
    padded = torch.nn.functional.pad(weights, (0, beyond, 0, beyond))
    wanted = padded.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).sum((2, 4))
    return Check(error_of(made, wanted), BOUND)


def _poisoned(kernel: Kernel, grid: Sequence[int], given: Mapping[str, Any]) -> None:
    given["Masses"].fill_(math.nan)
    launch(kernel, grid, given)


def checks(arch: Arch) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Every row of the search."""
    for kernel in ROWS:
        yield kernel.name, functools.partial(check, kernel, arch)


def cases(arch: Arch) -> Iterator[Case]:
    """The main shape: a search, a step with one, and a step that keeps what was found."""
    heads, tokens, features = forward.HEADS, forward.TOKENS, forward.FEATURES
    tensors = tokens_of(heads, tokens, features, torch.bfloat16)
    made = OnlineAttention(heads, tokens, features, _ONLINE, arch=arch).to(DEVICE)

    def at(step: int) -> Tensor:
        made.at_step(step)
        with torch.no_grad():
            result: Tensor = made(*tensors)
        return result

    q, k, _ = tensors
    sides: dict[str, Run] = {name: forward.dense(tensors, each) for name, each in DENSE.items()}
    sides |= {
        "masses": functools.partial(
            masses_by_kernel, launch, arch, q, k, BLOCK, scale=features**-0.5
        ),
        "search": functools.partial(at, _SEARCH),
        "keep": functools.partial(at, _KEEP),
    }
    _, failed = answers_of(sides)
    yield Case(
        name=f"searches of {heads} heads × {features}, {tokens} tokens, blocks of {BLOCK}",
        baselines=tuple(DENSE),
        sides={name: side for name, side in sides.items() if name not in failed},
        failed=failed,
    )


def others(arch: Arch) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Other warps and stages for the main shape."""
    q, k, _ = tokens_of(forward.HEADS, forward.TOKENS, forward.FEATURES, torch.bfloat16)

    def run(warps: int, stages: int) -> Run:
        def start(kernel: Kernel, grid: Sequence[int], given: Mapping[str, Any]) -> None:
            other = Launch({}, warps, stages, registers=255, shared=0)
            launch(dataclasses.replace(kernel, launches={arch: other}), grid, given)

        scale = forward.FEATURES**-0.5
        return functools.partial(masses_by_kernel, start, arch, q, k, BLOCK, scale)

    for warps, stages in itertools.product((8, 4), (2, 3, 4)):
        yield f"search, {warps} warps, {stages} stages", functools.partial(run, warps, stages)


ATTENTION_SEARCH = Family(checks, cases, others)
"""What the search shows the benchmark."""
