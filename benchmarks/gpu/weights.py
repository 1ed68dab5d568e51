"""Linear layers with sparse weights on a GPU, in every form, beside cuBLAS and the form's peers.

A side multiplies by several layers, one after the other, more than the cache holds, from a captured
graph: what decoding does.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.sparse import (
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

from benchmarks.gpu import codes
from benchmarks.gpu.family import BOUNDS, Case, Check, Family, answers_of, error_of
from benchmarks.gpu.timing import DEVICE, Run, graphed
from sparsecc import targets
from sparsecc.backends.cuda.forms.base import Matrix, Packed, Product
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import DTYPES, Arch
from sparsecc.backends.cuda.launch import launch
from sparsecc.backends.cuda.recipe import Recipe, dtype_of, run, tensor_of
from sparsecc.backends.cuda.rows.bitmap import VALUES, bitmap_shared
from sparsecc.backends.cuda.rows.two_of_four import two_of_four_shared
from sparsecc.cost.gpu import layers as libraries
from sparsecc.cost.gpu.bounds import Task
from sparsecc.cost.gpu.weights import is_known, task_of_packed
from sparsecc.cost.model import cost_model
from sparsecc.cost.roofline import Work

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008), (20480, 5120))
"""Outputs and inputs: projections and feed-forward layers of Llama 7B, and of OPT 13B."""
TOKENS = (1, 4, 8, 16, 32, 512)
ROWS = 1000
CHECKED = ((1, 2100), (7, 2048), (16, 2048), (30, 2100), (60, 2048), (200, 2048))
"""Tokens and columns of the layers that are checked: each tile, rows of X aligned and not."""
LAYERS = 6
DTYPE = "float16"
TWO_OF_FOUR = "2:4"
GROUPS = "groups of 16 50 %"
_SHARED = {"sm_80": 160 << 10, "sm_90": 220 << 10}
"""Bytes of shared memory of a multiprocessor that blocks may have, about."""
PEERS: Mapping[str, Any] = {
    "2:4 cuSPARSELt": SparseSemiStructuredTensorCUSPARSELT,
    "2:4 CUTLASS": SparseSemiStructuredTensorCUTLASS,
}
"""What torch has for weights of two of four."""


@dataclass(frozen=True)
class Zeros:
    """The zeros that a form is shown with.

    Attributes:
        form: Name of the form.
        share: Of weights that are zero.
        height: Rows that share a zero.
        keep: Of four consecutive inputs, how many are kept; 0 if that does not matter.
        width: Inputs that share a zero.
    """

    form: str
    share: float
    height: int = 1
    keep: int = 0
    width: int = 1

    def weight(self, rows: int, columns: int, seed: int) -> Matrix:
        """A random weight with such zeros."""
        draws = np.random.default_rng(seed)
        weight = draws.standard_normal((rows, columns), np.float32) / math.sqrt(columns)
        if self.keep:
            rank = draws.random((rows, columns // 4, 4), np.float32).argsort(-1).argsort(-1)
            return weight * (rank < self.keep).reshape(rows, columns)
        grid = -(-rows // self.height), -(-columns // self.width)
        kept = draws.random(grid, np.float32) >= self.share
        kept = kept.repeat(self.height, 0)[:rows].repeat(self.width, 1)[:, :columns]
        return weight * kept


ZEROS: Mapping[str, Zeros] = {
    "columns 16×1 80 %": Zeros("columns", 0.8, height=16),
    "columns 64×1 80 %": Zeros("columns", 0.8, height=64),
    "bitmap 60 %": Zeros("bitmap", 0.6),
    "bitmap 80 %": Zeros("bitmap", 0.8),
    TWO_OF_FOUR: Zeros("2:4", 0.5, keep=2),
    GROUPS: Zeros("groups", 0.5, width=16),
    "groups of 32 50 %": Zeros("groups", 0.5, width=32),
    "codes4": Zeros("codes4", 0.0, width=32),
    "dense": Zeros("dense", 0.0, width=16),
}
"""Side → its zeros."""


def tensors_of(packed: Packed) -> dict[str, Tensor]:
    """The arrays on the GPU."""
    return {name: tensor_of(array).to(DEVICE) for name, array in packed.arrays.items()}


def multiply(
    packed: Packed, arrays: Mapping[str, Tensor], x: Tensor, out: Tensor, arch: Arch
) -> None:
    """Write the product with a packed weight."""
    dtype = dtype_of(x)
    product = Product(packed.rows, packed.columns, packed.sizes, len(x), dtype, arch)
    run(FORMS[packed.form].recipe(product), {**arrays, "X": x, "Out": out}, launch)


def check(zeros: Zeros, dtype: str, tokens: int, columns: int, arch: Arch) -> Check:
    """A layer with sides as odd as the form allows, beside float64."""
    columns = columns // zeros.width * zeros.width
    packed = FORMS[zeros.form].pack(zeros.weight(ROWS, columns, 0), dtype)
    x = torch.randn(tokens, packed.columns, device=DEVICE).to(getattr(torch, dtype))
    made = x.new_full((tokens, packed.rows), math.nan)
    multiply(packed, tensors_of(packed), x, made, arch)
    held = torch.from_numpy(FORMS[zeros.form].unpack(packed)).to(DEVICE)
    return Check(error_of(made, x.double() @ held.double().T), BOUNDS[dtype])


def checks(arch: Arch) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Every form in both element types, with few and many tokens."""
    every = {**ZEROS, "bitmap 30 %": Zeros("bitmap", 0.3)}
    for (side, zeros), dtype, sides in itertools.product(every.items(), DTYPES, CHECKED):
        name = f"{side}, {dtype}, {sides[0]} tokens, {sides[1]} columns"
        yield name, functools.partial(check, zeros, dtype, *sides, arch)


def cases(arch: Arch) -> Iterator[Case]:
    """Every shape with all its sides, for one and for more tokens."""
    for rows, columns in SHAPES:
        packed = {
            side: FORMS[zeros.form].pack(zeros.weight(rows, columns, 0), DTYPE)
            for side, zeros in ZEROS.items()
        }
        layers = {side: [tensors_of(each) for _ in range(LAYERS)] for side, each in packed.items()}
        dense = torch.randn(LAYERS, rows, columns, device=DEVICE, dtype=getattr(torch, DTYPE))
        for tokens in TOKENS:
            x = torch.randn(tokens, columns, device=DEVICE, dtype=dense.dtype)
            sides: dict[str, Run] = {"cublas": functools.partial(_dense, dense, x)}
            sides |= {
                side: functools.partial(_sparse, packed[side], layers[side], x, arch)
                for side in packed
            }
            sides |= {name: _peer(kind, packed[TWO_OF_FOUR], x) for name, kind in PEERS.items()}
            _, failed = answers_of(sides)
            yield Case(
                name=f"{LAYERS} layers [{rows}, {columns}], {tokens} tokens",
                baselines=("cublas",),
                sides={name: graphed(side) for name, side in sides.items() if name not in failed},
                failed=failed,
                tasks=_tasks(packed, x, arch),
            )


def _tasks(packed: Mapping[str, Packed], x: Tensor, arch: Arch) -> dict[str, Task]:
    """What sides launch: cuBLAS what is assumed of it, forms what their recipes say."""
    one = next(iter(packed.values()))
    work = Work(one.rows, one.columns, len(x), 1, x.numel(), is_conv=False)
    costs = cost_model(targets.get(f"cuda-{arch}"))
    found = {"cublas": costs.quickest(libraries.dense(work, arch))}
    for side, each in packed.items():
        if is_known(each.form):
            found[side] = task_of_packed(each, len(x), DTYPE, arch)
    return {side: Task(task.family, task.launches * LAYERS) for side, task in found.items()}


def _dense(weights: Iterable[Tensor], x: Tensor) -> None:
    for weight in weights:
        functional.linear(x, weight)


def _sparse(packed: Packed, layers: list[dict[str, Tensor]], x: Tensor, arch: Arch) -> None:
    for arrays in layers:
        multiply(packed, arrays, x, x.new_empty(len(x), packed.rows), arch)


def _peer(kind: Any, packed: Packed, x: Tensor) -> Run:
    """A side of torch's, whose weights are made when it runs first, where it may fail."""
    weights: list[Tensor] = []

    def run_all() -> None:
        if not weights:
            held = torch.from_numpy(FORMS[packed.form].unpack(packed)).to(x.device, x.dtype)
            weights.extend(kind.from_dense(held) for _ in range(LAYERS))
        _dense(weights, x)

    return run_all


def others(arch: Arch) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Other stages and blocks for kernels in CUDA C++, other launches for codes of four bits."""
    few = functools.partial(bitmap_shared, values=VALUES[0])
    for side, tokens, shared in (
        ("bitmap 80 %", 16, few),
        (TWO_OF_FOUR, 16, two_of_four_shared),
        (TWO_OF_FOUR, 128, two_of_four_shared),
    ):
        packed = functools.cache(functools.partial(_packed, ZEROS[side]))
        for stages, blocks in itertools.product((2, 3, 4, 6), (1, 2, 3, 4)):
            if blocks * shared(tokens, stages) > _SHARED[arch]:
                continue
            name = f"{side}, {tokens} tokens, {stages} stages, {blocks} blocks"
            bytes_of = shared(tokens, stages)
            yield name, functools.partial(_other, packed, arch, tokens, stages, blocks, bytes_of)
    weights = _packed(ZEROS[GROUPS])
    for name, tokens, recipe in codes.launches(weights[0], DTYPE, arch):
        yield f"{GROUPS}, {name}", functools.partial(_running, *weights, recipe, tokens)


def _packed(zeros: Zeros) -> tuple[Packed, list[dict[str, Tensor]]]:
    packed = FORMS[zeros.form].pack(zeros.weight(*SHAPES[0], 0), DTYPE)
    return packed, [tensors_of(packed) for _ in range(LAYERS)]


def _other(
    weights: Callable[[], tuple[Packed, list[dict[str, Tensor]]]],
    arch: Arch,
    tokens: int,
    stages: int,
    blocks: int,
    shared: int,
) -> Run:
    """A side with another launch of the kernel that multiplies."""
    packed, layers = weights()
    product = Product(packed.rows, packed.columns, packed.sizes, tokens, DTYPE, arch)
    recipe = FORMS[packed.form].recipe(product)
    first = recipe.steps[0]
    how = dataclasses.replace(first.kernel.launch(arch), stages=stages, shared=shared)
    kernel = dataclasses.replace(
        first.kernel, constants={**first.kernel.constants, "BLOCKS": blocks}, launches={arch: how}
    )
    steps = (dataclasses.replace(first, kernel=kernel), *recipe.steps[1:])
    recipe = dataclasses.replace(recipe, steps=steps)
    return _running(packed, layers, recipe, tokens)


def _running(packed: Packed, layers: list[dict[str, Tensor]], recipe: Recipe, tokens: int) -> Run:
    """A side that does what a recipe says with each layer."""
    x = torch.randn(tokens, packed.columns, device=DEVICE).to(getattr(torch, DTYPE))
    out = x.new_empty(tokens, packed.rows)

    def run_all() -> Tensor:
        for arrays in layers:
            run(recipe, {**arrays, "X": x, "Out": out}, launch)
        return out

    return graphed(run_all)


WEIGHTS = Family(checks, cases, others)
