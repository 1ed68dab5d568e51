"""Other launches of the kernels for weights of four bits, to try on a GPU."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

from sparsecc.backends.cuda.forms.base import Packed, Product
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import Arch, Launch
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.cuda.rows.groups import FEW

Tried = tuple[Mapping[str, int], int, int]
"""Constants, warps and stages."""
_LANES: tuple[Tried, ...] = tuple(
    ({"LANES": lanes}, warps, 1) for lanes, warps in itertools.product((32, 64, 128), (2, 4, 8))
)
TRIED: Mapping[int, tuple[Tried, ...]] = {
    1: _LANES,
    FEW: _LANES,
    FEW + 1: tuple(
        ({"ROWS": rows, "TOKENS": 16}, warps, stages)
        for rows, warps, stages in itertools.product((32, 64, 128), (4, 8), (2, 4))
    ),
    512: tuple(
        ({"ROWS": rows, "TOKENS": tokens}, 8, stages)
        for rows, tokens, stages in itertools.product((64, 128), (64, 128), (2, 3))
    ),
}
"""By tokens: one, the most that are few and the fewest that are many, and a prompt."""


def launches(packed: Packed, dtype: str, arch: Arch) -> Iterator[tuple[str, int, Recipe]]:
    """Name, tokens and recipe of each, the usual one before others.

    Args:
        packed: In the form ``groups``.
        dtype: Of X.
        arch: Of the GPU.
    """
    for tokens, tried in TRIED.items():
        product = Product(packed.rows, packed.columns, packed.sizes, tokens, dtype, arch)
        usual = FORMS[packed.form].recipe(product)
        yield f"{tokens} tokens", tokens, usual
        for each in tried:
            constants, warps, stages = each
            sizes = ", ".join(f"{name} {size}" for name, size in constants.items())
            name = f"{tokens} tokens, {sizes}, {warps} warps, {stages} stages"
            yield name, tokens, _other(usual, product, each)


def _other(usual: Recipe, product: Product, tried: Tried) -> Recipe:
    constants, warps, stages = tried
    first, *rest = usual.steps
    kernel = dataclasses.replace(
        first.kernel,
        constants={**first.kernel.constants, **constants},
        launches={product.arch: Launch({}, warps, stages, 255, 0)},
    )
    grid = first.grid
    if "ROWS" in constants:
        tiles = product.rows / constants["ROWS"], product.tokens / constants["TOKENS"]
        grid = *map(math.ceil, tiles), *first.grid[2:]
    step = dataclasses.replace(first, kernel=kernel, grid=grid)
    return dataclasses.replace(usual, steps=(step, *rest))
