"""Small models as whole programs, and what they compute."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.bundle.whole import Port, Whole
from sparsecc.backends.codegen.program import Program, Step
from sparsecc.formats.blocks import pack_blocks

Array = NDArray[np.float32]
NONE, RELU = 0, 1


def packed(
    name: str, weight: Array, bias: Array, block: tuple[int, int] = (4, 1)
) -> dict[str, NDArray]:
    """The five constants of a packed weight, every block with a non-zero kept."""
    made = pack_blocks(weight, block)
    parts = {
        "values": made.values,
        "index": made.index,
        "grid": np.array(made.grid, np.int64),
        "shape": np.array(made.shape, np.int64),
        "bias": bias,
    }
    return {f"{name}.{part}": array for part, array in parts.items()}


def sparse_weight(rng: np.random.Generator, rows: int, columns: int, density: float) -> Array:
    """A weight with zeros in blocks of 4x1."""
    kept = rng.random((-(-rows // 4), columns)) < density
    mask = np.repeat(kept, 4, axis=0)[:rows]
    return (rng.standard_normal((rows, columns)) * mask).astype(np.float32)


def mlp(
    sizes: tuple[int, ...], seed: int = 0, density: float = 0.5, block: tuple[int, int] = (4, 1)
) -> tuple[Whole, list[tuple[Array, Array]]]:
    """Linears with ReLU between, ``x [rows, first]`` to ``y [rows, last]``, and their weights."""
    rng = np.random.default_rng(seed)
    layers, steps, constants = [], [], {}
    for at, (columns, rows) in enumerate(itertools.pairwise(sizes)):
        weight = sparse_weight(rng, rows, columns, density)
        bias = rng.standard_normal(rows).astype(np.float32)
        mine = packed(f"fc{at}", weight, bias, block)
        last = at == len(sizes) - 2
        step = Step(
            kind="matmul",
            name=f"fc{at}",
            inputs=("x" if not at else f"v{at - 1}",),
            outputs=("y" if last else f"v{at}",),
            constants=tuple(mine),
            attributes=(NONE if last else RELU, 0),
        )
        layers.append((weight, bias))
        steps.append(step)
        constants |= mine
    program = Program(("x",), ("y",), tuple(steps))
    ports = Port("x", "float32", ("rows", sizes[0])), Port("y", "float32", ("rows", sizes[-1]))
    return Whole((ports[0],), (ports[1],), program, constants), layers


def run_mlp(layers: list[tuple[Array, Array]], x: Array) -> Array:
    """What :func:`mlp` computes, in float64."""
    value = x.astype(np.float64)
    for at, (weight, bias) in enumerate(layers):
        value = value @ weight.T.astype(np.float64) + bias
        if at < len(layers) - 1:
            value = np.maximum(value, 0)
    return value.astype(np.float32)


MLP = mlp((33, 40, 17, 5))
"""Small, with sizes that no vector divides."""


def two_inputs() -> Whole:
    """``a [rows, 3]`` plus ``b [rows, 3]``, then ReLU: two outputs."""
    steps = (
        Step("add", "sum", ("a", "b"), ("s",), (), (NONE,)),
        Step("activation", "relu", ("s",), ("t",), (), (RELU,)),
    )
    ends = [Port(name, "float32", ("rows", 3)) for name in ("a", "b", "s", "t")]
    return Whole(tuple(ends[:2]), tuple(ends[2:]), Program(("a", "b"), ("s", "t"), steps), {})
