"""What launches do for a mixture of experts, as its recipe starts them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsecc.backends.cuda.experts import Mixture, recipe, rows_of
from sparsecc.backends.cuda.recipe import Step
from sparsecc.cost.gpu.bounds import WARP, Demand, Launched, Task
from sparsecc.cost.gpu.layers import BYTES, PART_BYTES, resources
from sparsecc.cost.gpu.turns import turn
from sparsecc.cost.gpu.weights import PER_VECTOR, VECTOR

_INDEX_BYTES = 8
"""Of a chosen expert."""
_PER_PAIRS = 24
"""Instructions of a warp that sorts 32 pairs, besides counting: by hand, not measured."""
_PER_HIDDEN = 16
"""Instructions that activate a hidden feature, multiply it and round it: likewise."""


def mixture(what: Mixture, loads: Sequence[tuple[float, float]]) -> Task:
    """A mixture whose tokens spread over experts like that.

    Args:
        what: The mixture.
        loads: For each expert how likely it is touched, and how many pairs it has where it is.

    Raises:
        BackendError: There is no kernel for it, or it has no tokens.
        TargetError: There is none for the architecture.
    """
    steps = recipe(what).steps
    if not steps:
        return Task("experts", ())
    rows = rows_of(what.pairs, what.experts)
    tiles = sum(touched * math.ceil(load / rows) for touched, load in loads)
    distinct = sum(touched for touched, _ in loads)
    route, up, down, combine = steps
    demands = (
        _route(route, what),
        _up(up, what, tiles, distinct),
        _down(down, what, tiles, distinct),
        _combine(combine, what),
    )
    return Task(
        "experts",
        tuple(
            Launched(demand, resources(step.kernel.launch(what.arch)))
            for demand, step in zip(demands, steps, strict=True)
        ),
    )


def _route(step: Step, what: Mixture) -> Demand:
    """Every program reads all pairs twice, and counts them by the bits of the expert."""
    bins = step.kernel.constants["BINS"]
    counting = math.log2(bins) * (1 + bins / WARP)
    return Demand(
        what.experts,
        read=float(_INDEX_BYTES * what.pairs),
        again=float(2 * what.experts * _INDEX_BYTES * what.pairs),
        issued=what.experts * math.ceil(what.pairs / WARP) * (counting + _PER_PAIRS),
    )


def _up(step: Step, what: Mixture, tiles: float, distinct: float) -> Demand:
    """Gathers tokens, reads the weights of experts that are touched, writes hidden features."""
    weights = distinct * (1 + what.gated) * what.inner * what.features
    numbers = weights + what.tokens * what.features + what.pairs * what.inner
    made = _product(step, what, tiles, what.inner, what.features, 1 + what.gated)
    return Demand(
        made.programs,
        flops=made.flops,
        read=BYTES * numbers,
        again=made.again,
        issued=made.issued + _PER_HIDDEN * what.pairs * what.inner / WARP,
    )


def _down(step: Step, what: Mixture, tiles: float, distinct: float) -> Demand:
    """Reads hidden features and weights, and writes a part of each pair, which stays near."""
    read = distinct * what.features * what.inner + what.pairs * what.inner
    parts = PART_BYTES * step.grid[1] * what.pairs * what.features
    made = _product(step, what, tiles, what.features, what.inner, 1)
    return Demand(
        step.grid[1] * made.programs,
        flops=made.flops,
        read=BYTES * read,
        again=made.again + parts,
        issued=made.issued,
    )


def _product(
    step: Step, what: Mixture, tiles: float, outputs: int, inputs: int, weights: int
) -> Demand:
    """Tiles of a product, of which each reads its rows and its columns of each weight."""
    constants = step.kernel.constants_on(what.arch)
    rows, columns = constants["ROWS"], constants["COLUMNS"]
    programs = tiles * math.ceil(outputs / columns)
    warps, turns = step.kernel.launch(what.arch).warps, math.ceil(inputs / constants["DEPTH"])
    fetched = BYTES * programs * (rows + weights * columns) * inputs
    return Demand(
        math.ceil(programs),
        flops=2.0 * programs * rows * weights * columns * inputs,
        again=fetched,
        issued=programs * turns * warps * turn(step.kernel, what.arch),
    )


def _combine(step: Step, what: Mixture) -> Demand:
    """Reads all parts and writes tokens."""
    parts = PART_BYTES * int(step.given["parts"]) * what.pairs
    again, made = float(parts * what.features), float(BYTES * what.tokens * what.features)
    issued = PER_VECTOR * (again + made) / VECTOR / WARP
    return Demand(math.prod(step.grid), read=made, again=again, issued=issued)
