"""Heads that say nothing are deleted, with their rows and columns of the weights around. Exact.

A head that is skipped gives zeros, which add nothing to what reads them: without it the model
computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context
from sparsecc.passes.permute.couplings import Couplings, Ids, find_couplings
from sparsecc.passes.remove.cut import Reach, carry_out
from sparsecc.passes.remove.find import Removable, find_removable
from sparsecc.passes.remove.remove import together


def delete_heads(
    model: ir.Model, skipped: Mapping[str, Sequence[int]], ctx: Context
) -> dict[str, list[int]]:
    """Delete heads as far as the model lets them go.

    Args:
        model: In canonical form; changed in place.
        skipped: Name of an attention's last node → its heads that say nothing.
        ctx: Told of those that have to stay.

    Returns:
        Name → heads that are gone; of each attention at least one stays.
    """
    if not any(skipped.values()):
        return {}
    couplings = find_couplings(model)
    reach, last = Reach(couplings), {str(node.name): node for node in model.graph}
    picked = list[tuple[Removable, Ids]]()
    for each in find_removable(model, couplings, reach, "heads", ctx):
        for name, heads in skipped.items():
            where = list(units_of(last[name], each.units, couplings))
            units = sorted({unit for unit, _ in where if _all_of(unit, where, heads)})
            if 0 < len(units) < len(each.units):
                picked.append((each, np.array(units, np.int64)))
                break
    taken, cut = together(picked, reach, ctx)
    if cut is None:
        return {}
    found = {
        name: [
            head
            for each, units in taken
            for unit, head in units_of(last[name], each.units, couplings)
            if unit in units
        ]
        for name in skipped
    }
    carry_out(cut, couplings)
    return {name: heads for name, heads in found.items() if heads}


def units_of(node: ir.Node, units: Ids, couplings: Couplings) -> Iterator[tuple[int, int]]:
    """Which unit of a set the heads of an attention are: pairs of both, in the order of heads.

    Args:
        node: The last of the attention.
        units: ``[n, k]`` classes: n things, each of k classes.
        couplings: Of the model.
    """
    tag = couplings.tags.get(node.outputs[0])
    if tag is None or tag.ndim < 3:
        return
    classes = np.moveaxis(couplings.classes[tag], -3, 0)
    for head, members in enumerate(classes):
        found = np.flatnonzero(np.isin(units, members).any(axis=1))
        if len(found) == 1:
            yield int(found[0]), head


def _all_of(unit: int, where: Sequence[tuple[int, int]], heads: Sequence[int]) -> bool:
    """Whether a unit is of nothing but such heads: several share one where keys are shared."""
    return all(head in heads for at, head in where if at == unit)
