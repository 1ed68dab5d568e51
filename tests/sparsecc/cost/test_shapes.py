"""What a calibration measures: bounded, seeded, each once, and beside the edges of tiles."""

from __future__ import annotations

import math

import pytest

from sparsecc.backends.kernels.measured import rows_of, step_of
from sparsecc.backends.kernels.table import ANY, KERNELS, STEPS
from sparsecc.cost import shapes as module
from sparsecc.cost.families import FAMILIES, base_ms, family_of
from sparsecc.cost.shapes import MOST_INPUTS, MOST_MS, MOST_WEIGHTS, shapes
from sparsecc.targets import TARGETS

V4, V3 = TARGETS["x86-64-v4"], TARGETS["x86-64-v3"]
ROWS = [(target, row) for target in (V4, V3) for row in rows_of(target)]
NAMES = [f"{target.name}-{row.name}" for target, row in ROWS]


def test_every_kernel_that_serves_layers_is_measured() -> None:
    names = {row.name for row in rows_of(V4)}
    here = [row for row in KERNELS if row.isa == "x86-64-v4"]
    left = {row.name for row in here} - names
    assert all("-1x1-" in name and "code" not in name and "matvec" not in name for name in left)
    assert {row.name for row in KERNELS if row.isa == "x86-64-v3"} <= {r.name for r in rows_of(V3)}
    assert {row.family for row in rows_of(V4)} == set(FAMILIES)


@pytest.mark.parametrize(("target", "row"), ROWS, ids=NAMES)
def test_shapes_are_bounded_and_of_their_family(target, row) -> None:
    found = shapes(row, target, 60)
    assert len(set(found)) == 60
    for shape in found:
        work, (r, c) = shape.call.work, shape.call.block
        assert family_of(shape.call, target) == row.family
        assert base_ms(shape.call, target) <= MOST_MS
        assert max(work.input_elements, work.rows * work.points) <= MOST_INPUTS
        assert work.rows * work.cols // (work.groups if row.family.endswith("wise") else 1) <= (
            MOST_WEIGHTS
        )
        if not shape.call.is_dense:
            grid = math.ceil(work.rows / r) * math.ceil(work.cols / c)
            assert 1 <= shape.call.blocks <= grid
            assert ANY not in (r, c)


@pytest.mark.parametrize(("target", "row"), ROWS, ids=NAMES)
def test_held_out_shapes_are_others_and_all_are_the_same_every_time(target, row) -> None:
    measured, held_out = shapes(row, target, 60), shapes(row, target, 60, "held out")
    assert shapes(row, target, 60) == measured
    assert len(set(measured) & set(held_out)) <= (3 if row.family == "depthwise" else 6)


def test_some_lie_one_beside_an_edge() -> None:
    row = next(row for row in rows_of(V4) if row.name.startswith("f32-matmul-8x1"))
    rows = {shape.call.work.rows % row.tile[0] for shape in shapes(row, V4)}
    assert {0, 1, row.tile[0] - 1} <= rows


@pytest.mark.parametrize(("target", "row"), ROWS, ids=NAMES)
def test_a_step_computes_the_shape(target, row) -> None:
    if row.family.startswith("onnxruntime"):
        return
    for seed, shape in enumerate(shapes(row, target, 4)):
        step, work = step_of(shape, target, seed), shape.call.work
        assert step.kind in STEPS
        values, index, grid, sizes, bias = step.constants
        assert len(values) == len(index) == shape.call.blocks
        assert len(bias) == work.rows == sizes[0]
        assert math.prod(sizes[1:]) == work.cols
        assert bool(step.patterns) == row.family.endswith("code")
        assert tuple(grid[2:]) == shape.call.block


def test_the_table_of_draws_is_whole() -> None:
    assert set(module._DRAWS) == set(FAMILIES)
