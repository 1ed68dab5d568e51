"""Launches that several recipes share: turning X, splitting along its columns, adding the parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.recipe import Given, Recipe, Scratch, Step
from sparsecc.backends.cuda.rows.parts import add_name, turn_name
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.targets import TARGETS

PROGRAMS = 4
"""At most wanted for each multiprocessor, so that enough reads are under way. Not measured yet."""
ENOUGH_TOKENS = 64
"""Of all programs of a multiprocessor: more compute enough to hide what they read."""
LEAST_STEPS = 4
"""Of a loop: a split that leaves fewer spends its time on starting."""
WORTH_BYTES = 2**17
"""Of a weight, for each program: where fewer are left, a split gains less than the launch takes
that adds its parts, some microseconds. Not measured yet."""
UNPACKED = 2
"""Bytes that are read in the time in which a weight is unpacked from bits or a code."""


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


def cut_into(product: Product, tiles: tuple[int, int], wide: int, steps: int, nbytes: float) -> int:
    """Into how many parts a product is cut, whose parts a launch of its own has to add.

    Args:
        product: Which one.
        tiles: Of rows and of tokens.
        wide: Tokens of a tile.
        steps: Of a program's loop.
        nbytes: Of the weight that a program reads, or could, in all of it.
    """
    most = splits_of(math.prod(tiles), wide, steps, product.arch)
    return max(1, min(most, int(nbytes // WORTH_BYTES)))


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


def parts_of(product: Product, splits: int) -> dict[str, Scratch]:
    """The scratch tensor Parts; kernels are given one of a single number where nothing is cut."""
    shape = (splits, product.tokens, product.rows) if splits > 1 else (1,)
    return {"Parts": ("float32", shape)}


def tile_for(tokens: int, tiles: Sequence[int]) -> int:
    """Tokens of the smallest tile that holds so many, else of the largest; tiles grow."""
    return next((each for each in tiles if each >= tokens), tiles[-1])


def by_name(names: Sequence[str]) -> dict[str, str]:
    """Arguments that have the names of their tensors."""
    return {name: name for name in names}


def tiled(
    product: Product,
    kernel: Kernel,
    arrays: Mapping[str, str],
    tile: tuple[int, int],
    depth: int,
    nbytes: float,
) -> Recipe:
    """Multiply in tiles of rows and tokens, and add the parts where columns were split.

    Args:
        product: What is wanted.
        kernel: Takes X, Out, Parts, the arrays, ``tokens``, ``rows``, ``columns`` and ``splits``.
        arrays: Arguments of the kernel that are arrays of the weight, and which.
        tile: Rows and tokens of a block.
        depth: Columns of one turn of its loop.
        nbytes: What is read for one weight, or could be in its time.
    """
    tiles = math.ceil(product.rows / tile[0]), math.ceil(product.tokens / tile[1])
    steps, read = math.ceil(product.columns / depth), tile[0] * product.columns * nbytes
    splits = cut_into(product, tiles, tile[1], steps, read)
    given: dict[str, Given] = {**by_name(("X", "Out", "Parts")), **arrays}
    given |= {"tokens": product.tokens, "rows": product.rows, "columns": product.columns}
    multiply = Step(kernel, (*tiles, splits), given | {"splits": splits})
    return Recipe((multiply, *sum_of(product, splits)), parts_of(product, splits))
