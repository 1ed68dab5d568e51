"""What launches do for a layer with a sparse weight, as the recipe of each form starts them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from sparsecc.backends.cuda.forms.base import Packed, Product
from sparsecc.backends.cuda.forms.codes import PACK
from sparsecc.backends.cuda.forms.dense import ALIGNED
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.recipe import Step
from sparsecc.backends.cuda.rows import bitmap, columns
from sparsecc.backends.cuda.rows import groups as codes
from sparsecc.backends.cuda.rows import two_of_four as halves
from sparsecc.cost.gpu.bounds import WARP, Demand, Launched, Task
from sparsecc.cost.gpu.coefficients import Family
from sparsecc.cost.gpu.layers import BYTES, PART_BYTES, resources
from sparsecc.cost.gpu.turns import turn
from sparsecc.cost.roofline import Work
from sparsecc.formats.blocks import Block
from sparsecc.targets import TARGETS

DTYPE = "float16"
VECTOR = 16
"""Bytes that a thread reads at once."""
LINE = 128
"""Bytes of a line of a cache."""
PER_VECTOR = 2
"""Instructions to fetch one: an address and a load. By hand, not measured."""
GAINS: Mapping[str, float] = {"two_of_four": 2.0}
"""Modules whose matrix instructions are quicker than dense ones, and how much."""
FULLEST = 1.2
"""Values of the fullest tile of bits over those of a mean one, where zeros lie at random."""


@dataclass(frozen=True)
class Weight:
    """A sparse weight as its kernels see it.

    Attributes:
        sizes: Numbers that the recipe of its form needs.
        nbytes: Of all its arrays.
    """

    sizes: Mapping[str, int]
    nbytes: int


@dataclass(frozen=True)
class Priced:
    """A form of weights whose time can be told before there is a weight.

    Attributes:
        form: Its name.
        block: Rows and columns of the blocks of zeros that it skips.
        weight: Makes the weight of ``[rows, columns]`` with so many blocks stored.
        halved: Whether it takes at most two of four inputs (2:4).
    """

    form: Family
    block: Block
    weight: Callable[[int, int, int], Weight]
    halved: bool = False


Does = Callable[[Step, Product, Weight], Demand]
"""What the programs of a step do."""


def _columns(rows: int, cols: int, blocks: int, tile: int) -> Weight:
    """Tiles of rows keep as many columns each, up to a multiple of a step."""
    tiles = math.ceil(rows / tile)
    steps = tiles * math.ceil(blocks / tiles / columns.STEP)
    nbytes = steps * columns.STEP * (tile * BYTES + 2) + 8 * tiles
    return Weight({"tile": tile, "steps": steps}, nbytes)


def _bitmap(rows: int, cols: int, blocks: int) -> Weight:
    """Tiles have a bit for each number, a place, and values in whole 16 bytes, half of one lost."""
    tiles = _bitmap_tiles(rows, cols)
    bits = bitmap.ROWS * bitmap.COLUMNS // 8
    most = min(bitmap.VALUES[-1], math.ceil(FULLEST * blocks / max(1, tiles)))
    nbytes = tiles * (bits + 4 + VECTOR // 2) + BYTES * blocks
    return Weight({"bfloat": 0, "most": most}, nbytes)


def _bitmap_tiles(rows: int, cols: int) -> int:
    strips = bitmap.WARPS * math.ceil(rows / (bitmap.WARPS * bitmap.ROWS))
    return strips * math.ceil(cols / bitmap.COLUMNS)


def _two_of_four(rows: int, cols: int, blocks: int) -> Weight:
    """Half of the values and two bits for each, whatever is kept, in whole blocks."""
    high, wide = (
        math.ceil(size / step) * step for size, step in ((rows, halves.TALL), (cols, halves.DEPTH))
    )
    return Weight({}, high * wide // 2 * BYTES + high * wide // 8)


def _groups(rows: int, cols: int, blocks: int, group: int) -> Weight:
    """Codes of four bits and a word for each group; a slot for each row, and places for tiles."""
    slots = codes.SLOTS * math.ceil(rows / codes.SLOTS)
    places = 4 * rows * math.ceil(cols / codes.STEP)
    nbytes = blocks * (group // 2 + 4) + 8 * slots + 4 * rows + places
    return Weight({"group": group, "slots": slots}, nbytes)


def _codes4(rows: int, cols: int, blocks: int) -> Weight:
    """All of a weight, and a word for each group."""
    return Weight({}, rows * (cols // 2 + 4 * math.ceil(cols / codes.GROUP_OF_ALL)))


PRICED: tuple[Priced, ...] = (
    Priced("columns", (16, 1), functools.partial(_columns, tile=16)),
    Priced("columns", (64, 1), functools.partial(_columns, tile=64)),
    Priced("bitmap", (1, 1), _bitmap),
    Priced("2:4", (1, 1), _two_of_four, halved=True),
)
"""Forms that keep weights as they are: no plan asks for others, which are codes, yet."""
WHOLE = Priced("dense", (1, 1), lambda rows, cols, _: Weight({}, BYTES * rows * cols))
"""Our kernel for weights without zeros, which artifacts have in the place of a library's."""
ROUNDED: tuple[Priced, ...] = (
    *(Priced("groups", (1, each), functools.partial(_groups, group=each)) for each in codes.GROUPS),
    Priced("codes4", (1, codes.GROUP_OF_ALL), _codes4),
)
"""Forms that round them."""


@functools.lru_cache(maxsize=4096)
def tasks(
    work: Work, block: Block, blocks: int, arch: Arch, halved: bool = False
) -> tuple[Task, ...]:
    """Everything that can multiply by a weight of stored blocks on an architecture.

    Args:
        work: The layer.
        block: Rows and columns of a block.
        blocks: How many are stored.
        arch: Of the GPU.
        halved: Whether at most two of four inputs are stored.

    Returns:
        Nothing where there is no kernel: for blocks of another form, for convolutions.
    """
    if why_not(work):
        return ()
    return tuple(
        task_before(priced, work, blocks, arch)
        for priced in PRICED
        if priced.block == block and (halved or not priced.halved)
    )


def blocks_served() -> tuple[Block, ...]:
    """Blocks of zeros that some form skips."""
    return tuple({priced.block: None for priced in PRICED})


def why_not(work: Work) -> str:
    """Why no form can serve a layer, whatever its zeros are, or ""."""
    if work.is_conv or work.groups > 1:
        return "GPUs have no sparse kernel for convolutions"
    return ""


@functools.lru_cache(maxsize=4096)
def whole(work: Work, arch: Arch) -> Task | None:
    """A layer with its whole weight in our kernel; None where that does not take it."""
    if why_not(work) or work.cols % ALIGNED:
        return None
    return task_before(WHOLE, work, 0, arch)


def task_before(priced: Priced, work: Work, blocks: int, arch: Arch) -> Task:
    """What a layer launches once its weight is packed, with so many blocks stored."""
    weight = priced.weight(work.rows, work.cols, blocks)
    product = Product(work.rows, work.cols, weight.sizes, work.points, DTYPE, arch)
    return task_of(priced.form, product, weight)


def is_known(form: str) -> bool:
    """Whether the time of a form's products can be told."""
    return form in _KNOWN


def task_of(form: Family, product: Product, weight: Weight) -> Task:
    """What a product with a weight of a form launches, also one that is packed."""
    launches = []
    for step in FORMS[form].recipe(product).steps:
        kernel = step.kernel
        demand = _DOES[kernel.module, kernel.function](step, product, weight)
        how, gain = resources(kernel.launch(product.arch)), GAINS.get(kernel.module, 1.0)
        launches.append(Launched(demand, how, gain))
    return Task(form, tuple(launches))


def task_of_packed(packed: Packed, tokens: int, dtype: str, arch: Arch) -> Task:
    """What a product of so many tokens with a packed weight launches; its form has to be known."""
    product = Product(packed.rows, packed.columns, packed.sizes, tokens, dtype, arch)
    weight = Weight(packed.sizes, packed.nbytes)
    return task_of(cast(Family, packed.form), product, weight)


def _turn(step: Step, product: Product, _: Weight) -> Demand:
    """Reads X and writes Xᵀ."""
    return moving(step, BYTES * product.columns * (product.tokens + _number(step, "padded")))


def _add(step: Step, product: Product, _: Weight) -> Demand:
    """Reads all parts, which are near, and writes outputs."""
    count = product.tokens * product.rows
    parts = PART_BYTES * _number(step, "splits") * count
    return dataclasses.replace(moving(step, BYTES * count), again=float(parts))


def moving(step: Step, moved: float) -> Demand:
    """Of a launch that reads and writes and computes next to nothing."""
    issued = PER_VECTOR * moved / VECTOR / WARP
    return Demand(math.prod(step.grid), read=float(moved), issued=issued)


def _number(step: Step, name: str) -> int:
    """What an argument that is no tensor is given."""
    return int(step.given[name])


def _multiply_columns(step: Step, product: Product, weight: Weight) -> Demand:
    """Gathers rows of Xᵀ for every column a tile keeps; single numbers of X where it lies."""
    constants, (_, wide, splits) = step.kernel.constants, step.grid
    tile, tokens = constants["ROWS"], constants["TOKENS"]
    gathered = weight.sizes["steps"] * columns.STEP * wide  # columns, by each tile of tokens
    if constants["TURNED"]:
        lines = gathered * math.ceil(tokens * BYTES / LINE)
        inputs = float(gathered * tokens * BYTES)
    else:
        lines = gathered * product.tokens
        inputs = _near(product, lines * BYTES)
    return Demand(
        math.prod(step.grid),
        flops=2.0 * tile * tokens * gathered,
        read=float(weight.nbytes + _inputs_and_outputs(product, splits)),
        again=float(weight.nbytes * (wide - 1) + inputs + _parts(product, splits)),
        issued=_issued(step, product, weight.sizes["steps"] * wide),
        lines=float(lines),
    )


def _multiply_bitmap(step: Step, product: Product, weight: Weight) -> Demand:
    """Unpacks every tile, its zeros too, for each tile of tokens, and multiplies all of it."""
    turns = _bitmap_tiles(product.rows, product.columns) * step.grid[1]  # of single warps
    numbers = turns * bitmap.ROWS * bitmap.COLUMNS
    return _tiled(step, product, weight, numbers, product.columns, turns / bitmap.WARPS)


def _multiply_two_of_four(step: Step, product: Product, weight: Weight) -> Demand:
    """Multiplies half of the weight, for each tile of tokens; zeros beyond two of four too."""
    tall, wide, _ = step.grid
    width = math.ceil(product.columns / halves.DEPTH) * halves.DEPTH
    numbers, turns = tall * halves.TALL * width * wide, tall * wide * width / halves.DEPTH
    return _tiled(step, product, weight, numbers, width, turns)


def _multiply_dense(step: Step, product: Product, weight: Weight) -> Demand:
    """Multiplies all of the weight, for each tile of tokens."""
    constants, (tall, wide, _) = step.kernel.constants, step.grid
    numbers = tall * constants["ROWS"] * product.columns * wide
    turns = tall * wide * math.ceil(product.columns / constants["STEP"])
    return _tiled(step, product, weight, numbers, product.columns, turns)


def _few_codes(step: Step, product: Product, weight: Weight) -> Demand:
    """Codes are multiplied as they are read, for each token of a program."""
    constants = step.kernel.constants
    group, tokens = constants["GROUP"], constants["TOKENS"]
    kept = 2 * weight.nbytes * group / (group + 8)  # a word beside the codes of each group
    lines = kept / min(group, LINE // BYTES) * tokens
    return Demand(
        math.prod(step.grid),
        read=float(weight.nbytes + _inputs_and_outputs(product, 1)),
        again=_near(product, kept * BYTES * tokens),
        issued=_issued(step, product, kept / (PACK * WARP * constants["SLOTS"])),
        lines=lines,
    )


def _many_codes(step: Step, product: Product, weight: Weight) -> Demand:
    """Tiles are made from codes, zeros where none is kept, for each tile of tokens."""
    constants, (tall, wide, _) = step.kernel.constants, step.grid
    width = math.ceil(product.columns / constants["STEP"]) * constants["STEP"]
    numbers = tall * constants["ROWS"] * width * wide
    turns = tall * wide * width / constants["STEP"]
    return _tiled(step, product, weight, numbers, product.columns, turns)


def _tiled(
    step: Step, product: Product, weight: Weight, numbers: int, width: int, turns: float
) -> Demand:
    """Tiles of rows by tiles of tokens, each of which reads its weight and its inputs.

    Args:
        step: The launch.
        product: Which one.
        weight: What is multiplied by.
        numbers: Weights that are multiplied, by each tile of tokens.
        width: Inputs of a token that a tile reads.
        turns: Of loops, of all programs.
    """
    (tall, wide, splits), tokens = step.grid, step.kernel.constants["TOKENS"]
    inputs = tall * wide * tokens * width * BYTES
    return Demand(
        math.prod(step.grid),
        flops=2.0 * numbers * tokens,
        read=float(weight.nbytes + _inputs_and_outputs(product, splits)),
        again=float(weight.nbytes * (wide - 1) + inputs + _parts(product, splits)),
        issued=_issued(step, product, turns),
    )


def _issued(step: Step, product: Product, turns: float) -> float:
    """Instructions of all warps in so many turns of programs."""
    kernel = step.kernel
    return turns * kernel.launch(product.arch).warps * turn(kernel, product.arch)


def _inputs_and_outputs(product: Product, splits: int) -> int:
    """Bytes of X, and of Out where it is written at once."""
    return BYTES * product.tokens * (product.columns + (product.rows if splits == 1 else 0))


def _near(product: Product, fetched: float) -> float:
    """Bytes of X that come from the second-level cache where programs load so many.

    What the first-level cache holds each multiprocessor reads once.
    """
    gpu, inputs = TARGETS[f"cuda-{product.arch}"], BYTES * product.tokens * product.columns
    return min(fetched, gpu.threads * inputs) if inputs <= gpu.caches[0] / 2 else fetched


def _parts(product: Product, splits: int) -> int:
    """Bytes of sums that are not complete: they are read soon, from the second-level cache."""
    return PART_BYTES * splits * product.tokens * product.rows if splits > 1 else 0


_DOES: Mapping[tuple[str, str], Does] = {
    ("parts", "turn"): _turn,
    ("parts", "add"): _add,
    ("dense", "multiply"): _multiply_dense,
    ("columns", "multiply"): _multiply_columns,
    ("bitmap", "multiply"): _multiply_bitmap,
    ("two_of_four", "multiply"): _multiply_two_of_four,
    ("groups", "kept"): _few_codes,
    ("groups", "every"): _few_codes,
    ("code_tiles", "multiply"): _many_codes,
}
"""By module and function of a kernel."""
_KNOWN: frozenset[Family] = frozenset({"dense", "columns", "bitmap", "2:4", "groups", "codes4"})
