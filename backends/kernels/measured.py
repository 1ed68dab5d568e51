"""What a calibration measures: rows of the kernel table, and a step for each of their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.code_table import Pattern
from sparsecc.backends.kernels.attention import Attention
from sparsecc.backends.kernels.step_harness import PLAIN, T64, Array, Step, Tensor
from sparsecc.backends.kernels.table import ANY, ISAS, KERNELS, TOKENS_IN_LANES, KernelRow
from sparsecc.cost import roofline
from sparsecc.cost.families import FAMILIES, Family
from sparsecc.cost.rates import Kind, Sums
from sparsecc.cost.shapes import Row, Shape
from sparsecc.formats.blocks import Block
from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.targets import Target

STANDING: dict[Block, tuple[Block, ...]] = {
    (ANY, 1): ((32, 1), (64, 1)),
    (1, ANY): ((1, 32),),
    (ANY, ANY): ((4, 4), (2, 8)),
}
"""Blocks that stand for all that share a row of the table."""
RELU = [activation.name for activation in ACTIVATIONS].index("relu")
WIDE = 16
"""A matmul by blocks of a multiple of so many rows has a step of its own for few tokens."""
_POOL = 1 << 16


def rows_of(target: Target) -> list[Row]:
    """What a calibration of a target measures: every kernel of its best instruction set.

    Left out are the kernels that read positions of single weights where code is generated for
    these: only convolutions of several groups reach them there.
    """
    isa = ISAS[target.isas[-1]]
    rows = [_row(row, target) for row in KERNELS if row.isa == isa.name and _serves(row, target)]
    rows.append(Row(f"f32-depthwise-{isa.suffix}", "depthwise", ((1, 1),), (1, 1)))
    dense = [family for family in FAMILIES if family.startswith("onnxruntime")]
    return rows + [Row(family, family, (), (1, 1)) for family in dense]


def _serves(row: KernelRow, target: Target) -> bool:
    many = None if row.op == "conv" else roofline.FEW_POINTS + 1
    code = row.op != "matvec" and roofline.generates(row.block, 1, many, target)
    return code == row.generated


def _row(row: KernelRow, target: Target) -> Row:
    family: Family = "matvec" if row.op == "matvec" else "conv" if row.op == "conv" else "matmul"
    if row.generated:
        family = "conv-code" if row.op == "conv" else "matmul-code"
    points = 1 if row.op == "matvec" else row.nr * ISAS[row.isa].lanes
    return Row(row.name, family, STANDING.get(row.block, (row.block,)), (row.mr, points))


def step_of(shape: Shape, target: Target, seed: int) -> Step:
    """The step of a region that computes a shape, of random numbers and zeros."""
    rng = np.random.default_rng(seed)
    return _conv(shape, target, rng) if shape.call.work.is_conv else _matmul(shape, target, rng)


def _numbers(rng: np.random.Generator, *sizes: int) -> NDArray[np.float32]:
    """Numbers without a pattern; few of them are drawn, for what they are does not matter."""
    return np.resize(rng.standard_normal(_POOL).astype(np.float32), sizes)


def _packed(shape: Shape, sizes: tuple[int, ...], rng: np.random.Generator) -> list[Array]:
    """Constants of a step: values, index, grid and shape of a packed weight, and its bias."""
    work, (r, c), count = shape.call.work, shape.call.block, shape.call.blocks
    grid = (math.ceil(work.rows / r), math.ceil(math.prod(sizes[1:]) / c), r, c)
    all_blocks = grid[0] * grid[1]
    index = np.arange(all_blocks, dtype=np.int32)
    if count < all_blocks:
        index = np.sort(rng.choice(all_blocks, count, replace=False)).astype(np.int32)
    values = _numbers(rng, len(index), r * c)
    edge_rows, edge_cols = grid[0] * r - work.rows, grid[1] * c - math.prod(sizes[1:])
    if edge_rows:
        last = index // grid[1] == grid[0] - 1
        values.reshape(-1, r, c)[last, r - edge_rows :] = 0
    if edge_cols:
        values.reshape(-1, r, c)[index % grid[1] == grid[1] - 1, :, c - edge_cols :] = 0
    numbers = (np.array(part, np.int64) for part in (grid, sizes))
    return [values, index, *numbers, np.zeros(work.rows, np.float32)]


def _patterns(shape: Shape, target: Target, index: Array) -> list[Pattern]:
    work = shape.call.work
    points = None if work.is_conv else work.points
    if not roofline.generates(shape.call.block, work.groups, points, target):
        return []
    return [Pattern(index.astype(np.int32), work.rows, work.cols)]


def _conv(shape: Shape, target: Target, rng: np.random.Generator) -> Step:
    work, kernel = shape.call.work, shape.kernel
    channels = work.input_elements // shape.side**2
    sizes = (work.rows, kernel, kernel, channels // work.groups)
    constants = _packed(shape, sizes, rng)
    patterns = _patterns(shape, target, constants[1])
    window = [shape.stride] * 2 + [kernel // 2] * 4 + [1, 1, work.groups, RELU]
    x = _numbers(rng, 1, channels, shape.side, shape.side)
    alone = bool(patterns) and max(kernel, shape.stride) > 1  # as passes/regions/chains.py has it
    kind, attributes = ("conv", window) if alone else ("chain", [*window, -1, -1])
    return Step(kind, attributes, constants, [Tensor(x, x.shape, PLAIN)], patterns=patterns)


def chain_of(stages: Sequence[Shape], target: Target, seed: int) -> Step:
    """One step that streams convolutions, none of them a window with machine code of its own."""
    rng = np.random.default_rng(seed)
    steps = [_conv(stage, target, rng) for stage in stages]
    return Step(
        "chain",
        [*(number for step in steps for number in step.attributes[:-1]), -1],
        [constant for step in steps for constant in step.constants],
        steps[0].inputs,
        patterns=[pattern for step in steps for pattern in step.patterns],
    )


def _matmul(shape: Shape, target: Target, rng: np.random.Generator) -> Step:
    work = shape.call.work
    constants = _packed(shape, (work.rows, work.cols), rng)
    patterns = _patterns(shape, target, constants[1])
    few = work.points <= roofline.FEW_POINTS
    if few:
        kind = "matmul16" if shape.call.block[0] % WIDE == 0 else "matmul"
        x = _numbers(rng, work.points, work.cols)
        inputs = [Tensor(x, x.shape, PLAIN)]
    else:
        kind, pieces = "matmul", math.ceil(work.points / TOKENS_IN_LANES)
        x = _numbers(rng, pieces, work.cols, TOKENS_IN_LANES)
        inputs = [Tensor(x, (work.points, work.cols), T64)]
    return Step(kind, [RELU, int(not few)], constants, inputs, patterns=patterns)


@dataclass(frozen=True)
class RateCase:
    """A step that is no layer, and what it does.

    Attributes:
        step: The step.
        elements: What it makes, or reads where that is more; for attention the scores.
        macs: Multiply-adds of an attention; rows of an image that is pooled.
    """

    step: Step
    elements: int
    macs: int = 0

    @property
    def sums(self) -> Sums:
        """The same, of one call."""
        return Sums(1, self.elements, self.macs)


_IMAGES = ((16, 112), (64, 56), (256, 28), (96, 14), (512, 14), (960, 7), (32, 7))
"""Channels and side."""
_ROWS = ((16, 64), (64, 384), (128, 384), (128, 768), (197, 192), (128, 3072), (512, 768))
"""Tokens and features."""
_HEADS = ((64, 6, 64), (128, 12, 32), (128, 12, 64), (197, 3, 64), (256, 4, 64), (384, 12, 64))
"""Tokens, heads and features of a head."""
_EPS, _GELU = 1e-5, "gelu"


def rate_cases(kind: Kind) -> list[RateCase]:
    """Steps of a kind, over the sizes of common networks."""
    if kind == "attention":
        return [_attention(*sizes) for sizes in _HEADS]
    make = {**_OF_IMAGES, **_OF_ROWS}[kind]
    return [make(*sizes) for sizes in (_IMAGES if kind in _OF_IMAGES else _ROWS)]


def _plain(*sizes: int) -> Tensor:
    return Tensor(_numbers(np.random.default_rng(0), *sizes), sizes, PLAIN)


def _lanes(tokens: int, features: int) -> Tensor:
    pieces = math.ceil(tokens / TOKENS_IN_LANES)
    numbers = _numbers(np.random.default_rng(0), pieces, features, TOKENS_IN_LANES)
    return Tensor(numbers, (1, tokens, features), T64)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _attention(tokens: int, heads: int, dim: int) -> RateCase:
    inputs = [_lanes(tokens, heads * dim)] * 3
    settings = Attention(heads, heads, dim, dim**-0.5)
    step = Step("attention", settings.attributes, [], inputs)
    return RateCase(step, tokens * tokens * heads, 2 * tokens * tokens * heads * dim)


def _pool(channels: int, side: int) -> RateCase:
    step = Step("pool", [1, 3, 3, 2, 2, 1, 1, 1, 1, 0], [], [_plain(1, channels, side, side)])
    return RateCase(step, channels * side**2, channels * side)


def _mean(channels: int, side: int) -> RateCase:
    return RateCase(Step("mean", [4], [], [_plain(1, channels, side, side)]), channels * side**2)


def _scale(channels: int, side: int) -> RateCase:
    inputs = [_plain(1, channels, side, side), _plain(1, channels, 1, 1)]
    return RateCase(Step("scale", [], [], inputs), channels * side**2)


def _add(channels: int, side: int) -> RateCase:
    inputs = [_plain(1, channels, side, side)] * 2
    return RateCase(Step("add", [0], [], inputs), channels * side**2)


def _activation(tokens: int, features: int) -> RateCase:
    code = [activation.name for activation in ACTIVATIONS].index(_GELU)
    return RateCase(Step("activation", [code], [], [_plain(tokens, features)]), tokens * features)


def _layer_norm(tokens: int, features: int) -> RateCase:
    terms = [np.ones(features, np.float32)] * 2
    inputs = [_lanes(tokens, features)]
    return RateCase(Step("layer_norm", [_bits(_EPS)], terms, inputs), tokens * features)


def _softmax(tokens: int, features: int) -> RateCase:
    return RateCase(Step("softmax", [], [], [_plain(tokens, features)]), tokens * features)


def _to_t64(tokens: int, features: int) -> RateCase:
    return RateCase(Step("to_t64", [], [], [_plain(1, tokens, features)]), tokens * features)


def _from_t64(tokens: int, features: int) -> RateCase:
    return RateCase(Step("from_t64", [], [], [_lanes(tokens, features)]), tokens * features)


_OF_IMAGES: dict[Kind, Callable[[int, int], RateCase]] = {
    "pool": _pool,
    "mean": _mean,
    "scale": _scale,
    "add": _add,
}
_OF_ROWS: dict[Kind, Callable[[int, int], RateCase]] = {
    "activation": _activation,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "to_t64": _to_t64,
    "from_t64": _from_t64,
}
