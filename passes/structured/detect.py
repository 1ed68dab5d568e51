"""Finds the structure that a weight has exactly, and says whether it pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparsecc.cost.model import Estimate
from sparsecc.formats.patterns import DENSE
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.base import EXACT
from sparsecc.passes.structured.cost import estimate, is_covered
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.rewrite import misfit
from sparsecc.passes.weights.choose import choose, work_of
from sparsecc.passes.weights.layers import TINY_MACS, Layer, matrix
from sparsecc.report.rows import LayerRow
from sparsecc.search.plan import Choice
from sparsecc.targets import Target

WORTHWHILE = 0.9
"""Factors must be estimated at or below this share of the time: estimates are a tenth off."""
MOST_FITS = 6
"""Of one form, the quickest first."""


@dataclass(frozen=True)
class Found:
    """The exact structure of a weight.

    Attributes:
        structure: The quickest that it has.
        time: Of the layer as its factors.
    """

    structure: Structure
    time: Estimate


def structure_that_pays(layer: Layer, target: Target, row: LayerRow) -> Found | None:
    """The exact structure of a layer's weight, where it is faster than what would run it now.

    Args:
        layer: The layer.
        target: Where it runs.
        row: What would run it.
    """
    return _find(layer, target, WORTHWHILE * row.est_ms)


def exactly(structure: Structure) -> Choice:
    """The choice of factors that a weight has exactly."""
    return Choice(
        pattern=DENSE, sparsity=0.0, method="existing", refit=False, structure=str(structure)
    )


def _find(layer: Layer, target: Target, most_ms: float) -> Found | None:
    """The quickest structure that a layer's weight has, up to the rounding of float32.

    Only one that takes no longer than ``most_ms``: to fit a large weight takes seconds.
    """
    if layer.groups > 1 or (layer.macs is not None and layer.macs < TINY_MACS):
        return None
    weight = np.asarray(matrix(layer), np.float64)
    if min(weight.shape) < 2 or not weight.any():
        return None
    names = ("rank",) if layer.op == "Conv" else tuple(FORMS)
    found = []
    for name in names:
        exact = [each for each in FORMS[name].exact(weight) if is_covered(each, target)]
        tried = [each for each in exact if not misfit(layer, each)]
        timed = [Found(each, estimate(each, work_of(layer), target)) for each in tried]
        quickest = sorted(timed, key=lambda each: each.time.ms)[:MOST_FITS]
        found += [each for each in quickest if each.time.ms <= most_ms]
    for each in sorted(found, key=lambda each: each.time.ms):
        form = FORMS[each.structure.form]
        if form.fit(weight, each.structure, None).residual <= EXACT**2:
            return each
    return None


def exact_structures(
    layers: Sequence[Layer], target: Target, on_progress: Callable[[str, int, int], None]
) -> dict[str, Structure]:
    """Layer name → the structure it has exactly, where that is faster."""
    found = {}
    for done, layer in enumerate(layers):
        on_progress(f"structure of {layer.name}", done, len(layers))
        exact = structure_that_pays(layer, target, choose(layer, target, beside=True).row)
        if exact is not None:
            found[layer.name] = exact.structure
    return found
