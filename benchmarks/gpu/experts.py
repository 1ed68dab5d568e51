"""Mixtures of experts on a GPU, beside what cuBLAS makes of one expert with as many rows.

That is the baseline, so that the ratio of our side is the share of cuBLAS's peak that whole tiles
reach; where experts have few tokens it also reads more weights. Peers compute the mixture itself:
every expert on every token, one expert after the other, and torch's grouped product.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.family import BOUNDS, Case, Check, Family, answers_of, error_of
from benchmarks.gpu.timing import DEVICE, Run, graphed
from sparsecc.backends.cuda.experts import Mixture, recipe, rows_of
from sparsecc.backends.cuda.kernel import DTYPES, Arch, Launch
from sparsecc.backends.cuda.launch import launch
from sparsecc.backends.cuda.recipe import Recipe, Step, run
from sparsecc.backends.cuda.rows.experts import ROWS
from sparsecc.cost.gpu import mixtures

SIZES = (
    # experts, slots, features, hidden features, activation, gated
    (8, 2, 512, 2048, "gelu", False),
    (64, 4, 512, 2048, "gelu", False),
    (8, 2, 4096, 14336, "silu", True),
    (64, 4, 4096, 14336, "silu", True),
)
TOKENS = (16, 512, 4096)
DTYPE = "bfloat16"
CHECKED = Mixture(0, 3, 9, 208, 432, "silu", True, False, "", "")
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
}
Tensors = dict[str, Tensor]
Places = dict[int, tuple[Tensor, Tensor]]
"""Expert → tokens and slots that chose it."""


def weights_of(mixture: Mixture) -> Tensors:
    """Random weights; hidden features and outputs are about as large as tokens."""
    e, d, f = mixture.experts, mixture.features, mixture.inner
    shapes = {"Up": (e, f, d), "Down": (e, d, f)} | ({"Gate": (e, f, d)} if mixture.gated else {})
    kind = getattr(torch, mixture.dtype)
    made = {name: torch.empty(shape, device=DEVICE, dtype=kind) for name, shape in shapes.items()}
    return {name: each.normal_(std=each.shape[-1] ** -0.5) for name, each in made.items()}


def tokens_of(mixture: Mixture) -> Tensors:
    """Random tokens, each with different experts."""
    kind = getattr(torch, mixture.dtype)
    scores = torch.rand(mixture.tokens, mixture.experts, device=DEVICE)
    gates, experts = scores.topk(mixture.slots)
    x = torch.randn(mixture.tokens, mixture.features, device=DEVICE, dtype=kind)
    return {"X": x, "Experts": experts, "Gates": torch.softmax(gates, -1)}


def ours(how: Recipe, tensors: Tensors) -> Tensor:
    """Launches of a recipe."""
    out = torch.empty_like(tensors["X"])
    run(how, tensors | {"Out": out}, launch)
    return out


def places_of(mixture: Mixture, experts: Tensor) -> Places:
    """Which tokens and slots chose each expert, of those that were chosen."""
    each = ((experts == e).nonzero(as_tuple=True) for e in range(mixture.experts))
    return {e: (token, slot) for e, (token, slot) in enumerate(each) if len(token)}


def by_expert(mixture: Mixture, tensors: Tensors, places: Places) -> Tensor:
    """One expert after the other on its tokens, which are known before, as they never are."""
    x, gates = tensors["X"], tensors["Gates"]
    total = torch.zeros_like(x)
    for e, (token, slot) in places.items():
        own = {name: each[e] for name, each in tensors.items() if each.dim() == len("Efd")}
        made = one_expert(mixture, own, x[token])
        total.index_add_(0, token, (made * gates[token, slot, None]).to(x.dtype))
    return total


def one_expert(mixture: Mixture, weights: Tensors, x: Tensor) -> Tensor:
    """What one expert makes of rows."""
    hidden = ACTIVATIONS[mixture.activation](functional.linear(x, weights["Up"]))
    if mixture.gated:
        hidden = hidden * functional.linear(x, weights["Gate"])
    return functional.linear(hidden, weights["Down"])


def every_expert(mixture: Mixture, tensors: Tensors) -> Tensor:
    """All experts on all tokens, times gates that are zero for others."""
    x = tensors["X"].expand(mixture.experts, -1, -1)
    share = tensors["X"].new_zeros(mixture.tokens, mixture.experts)
    share.scatter_(1, tensors["Experts"], tensors["Gates"].to(share.dtype))
    hidden = ACTIVATIONS[mixture.activation](x @ tensors["Up"].mT)
    if mixture.gated:
        hidden = hidden * (x @ tensors["Gate"].mT)
    return torch.einsum("etd,te->td", hidden @ tensors["Down"].mT, share)


def grouped(mixture: Mixture, tensors: Tensors) -> Tensor:
    """Pairs sorted by expert, and torch's grouped product."""
    flat = tensors["Experts"].flatten()
    order = flat.argsort(stable=True)
    here = flat[:, None] == torch.arange(mixture.experts, device=flat.device)
    ends = here.sum(0).cumsum(0).int()
    x = tensors["X"][order // mixture.slots]
    hidden = functional.grouped_mm(x, tensors["Up"].mT, offs=ends)
    hidden = ACTIVATIONS[mixture.activation](hidden)
    if mixture.gated:
        hidden = hidden * functional.grouped_mm(x, tensors["Gate"].mT, offs=ends)
    made = functional.grouped_mm(hidden, tensors["Down"].mT, offs=ends)[order.argsort()]
    made = made.unflatten(0, (mixture.tokens, mixture.slots))
    return (made * tensors["Gates"][..., None]).sum(1).to(x.dtype)


def share_of(mixture: Mixture, places: Places) -> float:
    """Of the arithmetic of all experts on all tokens that our tiles do."""
    rows = rows_of(mixture.pairs, mixture.experts)
    done = sum(math.ceil(len(token) / rows) * rows for token, _ in places.values())
    return done / (mixture.tokens * mixture.experts)


def check(mixture: Mixture, rows: int) -> Check:
    """A mixture beside float64."""
    tensors = weights_of(mixture) | tokens_of(mixture)
    made = torch.full_like(tensors["X"], math.nan)
    run(recipe(mixture, rows), tensors | {"Out": made}, launch)
    wide = {name: each.double() for name, each in tensors.items() if name != "Experts"}
    wanted = by_expert(mixture, wide, places_of(mixture, tensors["Experts"]))
    return Check(error_of(made, wanted), BOUNDS[mixture.dtype])


def checks(arch: Arch) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Every row of the table."""
    for dtype, rows, gated in itertools.product(DTYPES, ROWS, (True, False)):
        mixture = dataclasses.replace(CHECKED, tokens=500, dtype=dtype, arch=arch, gated=gated)
        name = f"experts, {dtype}, tiles of {rows}{', gated' * gated}"
        yield name, functools.partial(check, mixture, rows)


def cases(arch: Arch) -> Iterator[Case]:
    """Every mixture with few and many tokens."""
    for which in range(len(SIZES)):
        mixture = _mixture(which, arch)
        weights = weights_of(mixture)
        for tokens in TOKENS:
            yield _case(dataclasses.replace(mixture, tokens=tokens), weights)


def _mixture(which: int, arch: Arch) -> Mixture:
    experts, slots, features, inner, activation, gated = SIZES[which]
    return Mixture(0, slots, experts, features, inner, activation, gated, False, DTYPE, arch)


def _case(mixture: Mixture, weights: Tensors) -> Case:
    tensors = weights | tokens_of(mixture)
    places = places_of(mixture, tensors["Experts"])
    first = {name: each[0] for name, each in weights.items()}
    rows = tensors["X"].repeat_interleave(mixture.slots, 0)
    sides: dict[str, Run] = {
        "peak": functools.partial(one_expert, mixture, first, rows),
        "ours": functools.partial(ours, recipe(mixture), tensors),
        "loop": functools.partial(by_expert, mixture, tensors, places),
        "all": functools.partial(every_expert, mixture, tensors),
        "grouped_mm": functools.partial(grouped, mixture, tensors),
    }
    answers, failed = answers_of(sides)
    captured = {}
    for name in sides.keys() - failed.keys():
        try:
            captured[name] = graphed(sides[name])
        except Exception:  # a peer that waits for the device is timed as it is
            captured[f"{name}, not captured"] = sides[name]
    return Case(
        name=f"{mixture.slots} of {mixture.experts} experts, {mixture.features} → "
        f"{mixture.inner}{', gated' * mixture.gated}, {mixture.tokens} tokens",
        baselines=("peak",),
        sides=captured,
        failed=failed,
        errors={
            name: error_of(answers[name], answers["loop"])
            for name in ("ours", "all", "grouped_mm")
            if name in answers and "loop" in answers
        },
        share=share_of(mixture, places),
        tasks={"ours": mixtures.mixture(mixture, [(1.0, len(at)) for at, _ in places.values()])},
    )


def others(arch: Arch) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Tiles of other sizes, warps and stages, for few and for many tokens."""
    mixture = _mixture(2, arch)
    for tokens in (TOKENS[0], TOKENS[-1]):
        mixture = dataclasses.replace(mixture, tokens=tokens)
        usual = rows_of(mixture.pairs, mixture.experts)
        for rows in ROWS:
            name = f"{tokens} tokens, tiles of {rows}"
            yield name, functools.partial(_started, mixture, rows, None)
        for tile in itertools.product((64, 128, 256), (64, 128), (4, 8), (3, 4)):
            columns, depth, warps, stages = tile
            if usual * columns <= 128 * 256 and (usual + 2 * columns) * depth * stages < 2**17:
                name = f"{tokens} tokens, {columns} × {depth}, {warps} warps, {stages} stages"
                yield name, functools.partial(_started, mixture, usual, tile)


def _started(mixture: Mixture, rows: int, tile: tuple[int, int, int, int] | None) -> Run:
    """A mixture whose products have other tiles: columns, depth, warps and stages."""
    how = recipe(mixture, rows)
    if tile is not None:
        route, up, down, combine = how.steps
        products = (
            _other(up, mixture.inner, tile, mixture.arch),
            _other(down, mixture.features, tile, mixture.arch),
        )
        how = dataclasses.replace(how, steps=(route, *products, combine))
    return graphed(functools.partial(ours, how, weights_of(mixture) | tokens_of(mixture)))


def _other(step: Step, width: int, tile: tuple[int, int, int, int], arch: Arch) -> Step:
    columns, depth, warps, stages = tile
    tiles = step.grid[0] // math.ceil(width / step.kernel.constants_on(arch)["COLUMNS"])
    how = Launch({"COLUMNS": columns, "DEPTH": depth}, warps, stages, 255, 0)
    given = dict(step.given)
    if isinstance(span := given.get("span"), int):
        given["span"] = math.ceil(span / depth) * depth
    return Step(
        dataclasses.replace(step.kernel, launches={arch: how}),
        (tiles * math.ceil(width / columns), *step.grid[1:]),
        given,
    )


EXPERTS = Family(checks, cases, others)
