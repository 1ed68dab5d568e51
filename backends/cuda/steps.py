"""Launches that several recipes share: turning X, splitting along its columns, adding the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.recipe import Given, Recipe, Step
from sparsecc.backends.cuda.rows.parts import add_name, turn_name
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.targets import TARGETS

PROGRAMS = 4
"""At most wanted for each multiprocessor, so that enough reads are under way. Not measured yet."""
ENOUGH_TOKENS = 64
"""Of all programs of a multiprocessor: more compute enough to hide what they read."""
LEAST_STEPS = 4
"""Of a loop: a split that leaves fewer spends its time on starting."""


def splits_of(programs: int, wide: int, steps: int, arch: Arch) -> int:
    """Into how many parts a loop is cut, so that the GPU is full.

    The result does not depend on the device at hand, so that equal inputs give equal bits.

    Args:
        programs: How many there are without.
        wide: Tokens that each computes.
        steps: Of the loop.
        arch: Of the GPU.
    """
    of_each = min(PROGRAMS, max(1, ENOUGH_TOKENS // wide))
    wanted = of_each * TARGETS[f"cuda-{arch}"].threads // max(1, programs)
    return max(1, min(wanted, steps // LEAST_STEPS))


def turned(product: Product, wide: int) -> tuple[Step, tuple[int, int]]:
    """Writes Xᵀ, with zeros for tokens up to a multiple of ``wide``; and the shape of that."""
    kernel = KERNELS[turn_name(product.dtype)]
    padded = math.ceil(product.tokens / wide) * wide
    grid = (
        math.ceil(padded / kernel.constants["TOKENS"]),
        math.ceil(product.columns / kernel.constants["COLUMNS"]),
    )
    given: dict[str, Given] = {"X": "X", "Turned": "Turned", "padded": padded}
    given |= {"tokens": product.tokens, "columns": product.columns}
    return Step(kernel, grid, given), (product.columns, padded)


def sum_of(product: Product, splits: int) -> tuple[Step, ...]:
    """Adds ``Parts[splits, tokens, rows]`` into Out, always in the same order; nothing for one."""
    if splits == 1:
        return ()
    kernel = KERNELS[add_name(product.dtype)]
    count = product.tokens * product.rows
    given: dict[str, Given] = {"Parts": "Parts", "Out": "Out", "count": count, "splits": splits}
    return (Step(kernel, (math.ceil(count / kernel.constants["COUNT"]),), given),)


def tiled(
    product: Product, kernel: Kernel, arrays: Sequence[str], tile: tuple[int, int], depth: int
) -> Recipe:
    """Multiply in tiles of rows and tokens, and add the parts where columns were split.

    Args:
        product: What is wanted.
        kernel: Takes X, Out, Parts, the arrays, ``tokens``, ``rows``, ``columns`` and ``splits``.
        arrays: Names of the arrays of the weight.
        tile: Rows and tokens of a block.
        depth: Columns of one turn of its loop.
    """
    tiles = math.ceil(product.rows / tile[0]), math.ceil(product.tokens / tile[1])
    splits = splits_of(math.prod(tiles), tile[1], math.ceil(product.columns / depth), product.arch)
    given: dict[str, Given] = {name: name for name in ("X", *arrays, "Out", "Parts")}
    given |= {"tokens": product.tokens, "rows": product.rows, "columns": product.columns}
    multiply = Step(kernel, (*tiles, splits), given | {"splits": splits})
    parts = (splits, product.tokens, product.rows) if splits > 1 else (1,)
    return Recipe((multiply, *sum_of(product, splits)), {"Parts": ("float32", parts)})
