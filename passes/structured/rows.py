"""The row of a report for each layer that runs as its factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sparsecc.cost.model import Estimate, cost_model, total
from sparsecc.passes.structured.base import Shape
from sparsecc.passes.structured.cost import estimate
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.rewrite import Mark
from sparsecc.report.rows import DENSE_KERNEL, LayerRow
from sparsecc.targets import Target


def merged(
    rows: Mapping[str, LayerRow], marks: Mapping[str, Mark], target: Target
) -> dict[str, LayerRow]:
    """Rows by layer: those of the parts of a layer become one.

    Args:
        rows: Node name → its row.
        marks: Node name → the layer it is a part of.
        target: Where the model runs.
    """
    found = {name: row for name, row in rows.items() if name not in marks}
    for mark in dict.fromkeys(marks.values()):
        found[mark.layer] = _row(mark, rows.get(mark.sparse), target)
    return found


def _row(mark: Mark, sparse: LayerRow | None, target: Target) -> LayerRow:
    form, work = FORMS[mark.structure.form], mark.work
    shape: Shape = (work.rows, work.cols)
    price = form.price(mark.structure, shape)
    time, dense = estimate(mark.structure, work, target), cost_model(target).dense(work)
    share, flops = price.parameters / (work.rows * work.cols), 2.0 * price.macs * work.points
    moved = 4 * price.parameters + work.activation_bytes
    row = LayerRow(
        name=mark.layer,
        op=mark.op,
        shape=shape,
        macs=mark.macs if mark.macs is not None else work.rows * work.cols,
        density=round(min(1.0, share), 6),
        pattern="dense",
        eligible=True,
        why="",
        kernel=form.what,
        est_ms=round(time.ms, 6),
        dense_ms=round(dense.ms, 6),
        spread=round(time.spread, 4),
        flops=flops,
        moved_bytes=moved,
        structure=str(mark.structure),
    )
    if sparse is not None:
        row = _with_sparse(row, sparse)
    ratio = row.dense_ms / row.est_ms if row.est_ms else 1.0
    why = f"as {mark.structure}: estimated {ratio:.1f}x faster at {row.density:.2f} of the weights"
    return dataclasses.replace(row, why=why)


def _with_sparse(row: LayerRow, sparse: LayerRow) -> LayerRow:
    """The row of factors with a sparse part beside them."""
    both = total([Estimate(row.est_ms, row.spread), Estimate(sparse.est_ms, sparse.spread)])
    beside = f" + {sparse.kernel}" if sparse.kernel != DENSE_KERNEL else ""
    return dataclasses.replace(
        row,
        density=round(min(1.0, row.density + sparse.density), 6),
        pattern=sparse.pattern,
        kernel=row.kernel + beside,
        est_ms=round(both.ms, 6),
        spread=round(both.spread, 4),
        flops=row.flops + sparse.flops,
        moved_bytes=row.moved_bytes + sparse.moved_bytes,
    )
