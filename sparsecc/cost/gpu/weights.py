"""What launches do for a layer with a sparse weight, as the recipe of each form starts them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.forms.columns import TILES
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.recipe import Step
from sparsecc.backends.cuda.rows.columns import STEP
from sparsecc.cost.gpu.bounds import WARP, Demand, Launched, Task
from sparsecc.cost.gpu.coefficients import Family
from sparsecc.cost.gpu.layers import BYTES, PART_BYTES, resources
from sparsecc.cost.roofline import Work
from sparsecc.formats.blocks import Block

DTYPE = "float16"
VECTOR = 16
"""Bytes that a thread reads at once."""
LINE = 128
"""Bytes of a line of a cache."""
PER_VECTOR = 2
"""Instructions to fetch one: an address and a load. By hand, not measured."""


@dataclass(frozen=True)
class Weight:
    """A sparse weight as its kernels see it.

    Attributes:
        sizes: Numbers that the recipe of its form needs.
        nbytes: Of all its arrays.
    """

    sizes: Mapping[str, int]
    nbytes: int


GAINS: Mapping[Family, float] = {"2:4": 2.0}
"""Forms whose matrix instructions are quicker than dense ones, and how much."""
Does = Callable[[Step, Product, Weight], Demand]
"""What the programs of a step do."""


@dataclass(frozen=True)
class Priced:
    """A form of weights whose time can be told.

    Attributes:
        form: Its name.
        block: Rows and columns of the blocks of zeros that it skips.
        weight: Makes the weight of ``[rows, columns]`` with so many blocks stored.
    """

    form: Family
    block: Block
    weight: Callable[[int, int, int], Weight]


def _columns(rows: int, columns: int, blocks: int, tile: int) -> Weight:
    """Tiles of rows keep as many columns each, up to a multiple of a step."""
    tiles = math.ceil(rows / tile)
    steps = tiles * math.ceil(blocks / tiles / STEP)
    return Weight({"tile": tile, "steps": steps}, steps * STEP * (tile * BYTES + 2) + 8 * tiles)


COSTED: frozenset[Family] = frozenset({"columns"})
"""Forms whose launches are known here."""
PRICED: tuple[Priced, ...] = tuple(
    Priced("columns", (tile, 1), functools.partial(_columns, tile=tile)) for tile in TILES
)
"""Every form whose kernels are built."""


def tasks(work: Work, block: Block, blocks: int, arch: Arch) -> list[Task]:
    """Everything that can multiply by a weight of stored blocks on an architecture.

    Args:
        work: The layer.
        block: Rows and columns of a block.
        blocks: How many are stored.
        arch: Of the GPU.

    Returns:
        Nothing where there is no kernel: for blocks of another form, for convolutions.
    """
    if why_not(work):
        return []
    return [_task(priced, work, blocks, arch) for priced in PRICED if priced.block == block]


def blocks_served() -> tuple[Block, ...]:
    """Blocks of zeros that some form skips."""
    return tuple({priced.block: None for priced in PRICED})


def why_not(work: Work) -> str:
    """Why no form can serve a layer, whatever its zeros are, or ""."""
    if work.is_conv or work.groups > 1:
        return "GPUs have no sparse kernel for convolutions"
    return ""


def _task(priced: Priced, work: Work, blocks: int, arch: Arch) -> Task:
    weight = priced.weight(work.rows, work.cols, blocks)
    product = Product(work.rows, work.cols, weight.sizes, work.points, DTYPE, arch)
    return task_of(priced.form, product, weight)


def task_of(form: Family, product: Product, weight: Weight) -> Task:
    """What a product with a weight of a form launches, also one that is packed."""
    launches = []
    for step in FORMS[form].recipe(product).steps:
        kernel = step.kernel
        demand = _DOES[kernel.module, kernel.function](step, product, weight)
        how = resources(kernel.launch(product.arch))
        launches.append(Launched(demand, how, GAINS.get(form, 1.0)))
    return Task(form, tuple(launches))


def _turn(step: Step, product: Product, _: Weight) -> Demand:
    """Reads X and writes Xᵀ."""
    tokens, padded = product.tokens, int(step.given["padded"])
    moved = BYTES * product.columns * (tokens + padded)
    return _moving(step, moved)


def _add(step: Step, product: Product, _: Weight) -> Demand:
    """Reads all parts, writes outputs."""
    splits = int(step.given["splits"])
    return _moving(step, product.tokens * product.rows * (PART_BYTES * splits + BYTES))


def _moving(step: Step, moved: float) -> Demand:
    """Of a launch that reads and writes and computes next to nothing."""
    return Demand(
        math.prod(step.grid), read=float(moved), issued=PER_VECTOR * moved / VECTOR / WARP
    )


def _multiply_columns(step: Step, product: Product, weight: Weight) -> Demand:
    """Gathers rows of Xᵀ for every column a tile keeps; single numbers of X where it lies."""
    _, wide, splits = step.grid
    tile, tokens = weight.sizes["tile"], step.kernel.constants["TOKENS"]
    gathered = weight.sizes["steps"] * STEP * wide  # columns, by each tile of tokens
    if step.kernel.constants["TURNED"]:
        lines = gathered * math.ceil(tokens * BYTES / LINE)
        fetched = gathered * tokens * BYTES / VECTOR
    else:
        lines, fetched = gathered * product.tokens, gathered * product.tokens
    fetched += weight.nbytes * wide / VECTOR
    return Demand(
        math.prod(step.grid),
        flops=2.0 * tile * tokens * gathered,
        read=float(weight.nbytes + _inputs_and_outputs(product, splits)),
        again=float(weight.nbytes * (wide - 1) + gathered * tokens * BYTES),
        issued=PER_VECTOR * fetched / WARP,
        lines=float(lines),
    )


def _inputs_and_outputs(product: Product, splits: int) -> int:
    """Bytes of X, and of Out or the parts of it."""
    each = BYTES if splits == 1 else PART_BYTES * splits
    return product.tokens * (BYTES * product.columns + each * product.rows)


_DOES: Mapping[tuple[str, str], Does] = {
    ("parts", "turn"): _turn,
    ("parts", "add"): _add,
    ("columns", "multiply"): _multiply_columns,
}
"""By module and function of a kernel."""
