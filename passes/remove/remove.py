"""Remove the channels, or heads, that are worth least; what reads the others makes up for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import DENSE, Whole, detect
from sparsecc.passes.base import Context
from sparsecc.passes.permute.couplings import Ids, find_couplings
from sparsecc.passes.remove.cut import Cut, Obstacle, Reach, carry_out
from sparsecc.passes.remove.find import PASS_NAME, Removable, find_removable
from sparsecc.passes.remove.worth import Worth, worth
from sparsecc.passes.weights.bias_correction import has_bias
from sparsecc.passes.weights.layers import Layer, matrix
from sparsecc.passes.weights.prune import put, with_statistics
from sparsecc.passes.weights.prune_layer import LayerJob, fit_to
from sparsecc.progress import Counted, halves
from sparsecc.quality.calibration import Calibration
from sparsecc.search.plan import Choice, PlanRemoval

LANES = 8
"""Channels that stay are a multiple of this where there are LEAST or more."""
LEAST = 32

Picks = Callable[[Sequence[Removable]], list[Ids]]
"""Sets → the units of each that go."""


@dataclasses.dataclass(frozen=True)
class Removed:
    """What was removed.

    Attributes:
        sets: As a plan says it.
        notes: Layer name → what became of it, in words.
    """

    sets: tuple[PlanRemoval, ...]
    notes: dict[str, str]


def remove_share(
    model: ir.Model,
    kind: Whole,
    share: float,
    calibration: Calibration | None,
    ctx: Context,
    *,
    stays: Callable[[str], bool] = lambda _: False,
    refit: bool = True,
    on_progress: Counted | None = None,
) -> Removed:
    """Remove a share of every set of channels or heads that can be made smaller.

    Args:
        model: In canonical form, changed in place.
        kind: Channels (hidden units of MLPs among them), or heads of attention.
        share: Share of each set that goes.
        calibration: Sample inputs, to tell what is worth least and to refit what is left.
        ctx: Told of sets that cannot be made smaller.
        stays: Layer name → whether all of its channels stay.
        refit: Whether layers that read what is left may change to make up for the rest.
        on_progress: Called as (what, steps done, steps in all).

    Raises:
        PlanError: Nothing can be removed; says why.
        CalibrationError: The model does not run on the data.
    """
    found, free = list[Removable](), list[Removable]()
    weighing, fitting = halves(on_progress)

    def pick(sets: Sequence[Removable]) -> list[Ids]:
        found.extend(sets)
        free.extend(each for each in sets if not any(map(stays, each.layers)))
        worths = worth(model, free, calibration, weighing) if free else []
        chosen = {
            each.name: least(value, to_go(len(value), share, kind))
            for each, value in zip(free, worths, strict=True)
        }
        return [chosen.get(each.name, np.zeros(0, np.int64)) for each in sets]

    removed = _remove(model, kind, pick, calibration, ctx, refit, fitting)
    if removed.sets:
        return removed
    why = "; ".join(dict.fromkeys(r.reason for r in ctx.refusals if r.pass_name == PASS_NAME))
    fix = "prune weights instead, such as 4x1:0.5"
    if found:
        largest = max((len(each.units) for each in free), default=0)
        why = f"all {len(found)} sets are of layers that are to stay dense"
        if free:
            why = f"{share:g} is too small a share: the largest of {len(free)} sets has {largest}"
            why += f", and multiples of {LANES} stay" if largest >= LEAST else ""
        fix = "ask for a larger share, or leave fewer layers dense"
    raise PlanError(
        f"no {kind} can be removed: {why or 'the model has no set of them that may go'}", fix=fix
    )


def remove_planned(
    model: ir.Model,
    planned: Sequence[PlanRemoval],
    calibration: Calibration | None,
    ctx: Context,
    *,
    on_progress: Counted | None = None,
) -> Removed:
    """Remove what a plan says; ``model`` is changed in place.

    Raises:
        PlanError: The model has no such sets, or they cannot go all at once.
    """
    asked = {each.name: each for each in planned}
    fix = "apply the plan to the model it was made for, or another checkpoint of it"

    def pick(sets: Sequence[Removable]) -> list[Ids]:
        there = {each.name: each for each in sets}
        for name, each in asked.items():
            if name not in there or len(there[name].units) != each.units:
                raise PlanError(
                    f"the plan removes {len(each.gone)} of {each.units} {each.kind} at {name!r}, "
                    "and the model has none such that may go",
                    fix=fix,
                )
        none: tuple[int, ...] = ()
        return [
            np.array(asked[each.name].gone if each.name in asked else none, np.int64)
            for each in sets
        ]

    kind, refit = planned[0].kind, planned[0].refit
    removed = _remove(model, kind, pick, calibration, ctx, refit, on_progress)
    if missed := set(asked) - {each.name for each in removed.sets}:
        name = min(missed)
        why = next((r.reason for r in ctx.refusals if repr(name) in r.reason), "")
        raise PlanError(f"the plan removes what has to stay: {why or name}", fix=fix)
    return removed


def to_go(count: int, share: float, kind: Whole) -> int:
    """How many of a set go for a share: what stays fills whole vectors where there are several."""
    kept = max(1, count - int(share * count + 1e-9))
    if kind == "channels" and count >= LEAST:
        kept = min(count, -(-kept // LANES) * LANES)
    return count - kept


def least(worths: Worth, count: int) -> Ids:
    """The units that are worth least, in ascending order; ties fall to the left."""
    return np.sort(np.argsort(worths, kind="stable")[:count])


def _remove(
    model: ir.Model,
    kind: Whole,
    pick: Picks,
    calibration: Calibration | None,
    ctx: Context,
    refit: bool,
    on_progress: Counted | None,
) -> Removed:
    couplings = find_couplings(model)
    reach = Reach(couplings)
    sets = find_removable(model, couplings, reach, kind, ctx)
    picked = list(zip(sets, pick(sets), strict=True))
    taken, cut = together([(each, gone) for each, gone in picked if gone.size], reach, ctx)
    if cut is None:
        return Removed((), {})
    notes = _make_up(model, taken, calibration, refit, on_progress)
    carry_out(cut, couplings)
    planned = tuple(
        PlanRemoval(
            name=each.name,
            kind=kind,
            units=len(each.units),
            gone=tuple(int(unit) for unit in gone),
            refit=refit,
        )
        for each, gone in taken
    )
    return Removed(planned, notes)


def together(
    picked: Sequence[tuple[Removable, Ids]], reach: Reach, ctx: Context
) -> tuple[list[tuple[Removable, Ids]], Cut | None]:
    """The sets that can be made smaller all at once, and how."""
    taken, cut, gone = list[tuple[Removable, Ids]](), None, np.zeros(0, np.int64)
    for each, units in picked:
        more = np.concatenate([gone, each.units[units].ravel()])
        found = reach.cut(more)
        if isinstance(found, Obstacle):
            ctx.refuse(PASS_NAME, None, f"{each.kind} at {each.name!r} stay: {found.reason}")
            continue
        taken.append((each, units))
        gone, cut = more, found
    return taken, cut


def _make_up(
    model: ir.Model,
    taken: Sequence[tuple[Removable, Ids]],
    calibration: Calibration | None,
    refit: bool,
    on_progress: Counted | None,
) -> dict[str, str]:
    """Refit the layers that read what goes, on the inputs that stay; what became of all layers."""
    notes = dict[str, list[str]]()
    lost = dict[str, tuple[Layer, np.ndarray]]()
    for each, gone in taken:
        for side in each.writers:
            rows = int(np.isin(side.units, gone).sum())
            notes.setdefault(side.layer.name, []).append(f"{rows} outputs removed")
        for side in each.readers:
            cols = np.isin(side.units, gone)
            notes.setdefault(side.layer.name, []).append(f"{int(cols.sum())} inputs removed")
            _, before = lost.get(side.layer.name, (side.layer, np.zeros(len(cols), bool)))
            lost[side.layer.name] = (side.layer, before | cols)
    if calibration is not None:
        layers = [layer for layer, _ in lost.values()]
        dense = model.clone()
        choice = Choice(pattern=DENSE, sparsity=0.0, method="existing", refit=refit)
        for together, train, held_out in with_statistics(
            model, layers, calibration, on_progress, dense=dense
        ):
            for layer in together:
                job = LayerJob(layer.name, matrix(layer), choice, train, held_out, has_bias(layer))
                zeros = detect(job.weight).pattern != DENSE  # which stay as they are
                kept = ~lost[layer.name][1] & ((job.weight != 0) | (not zeros))
                fitted = fit_to(job, kept)
                put(layer, fitted.weight, fitted.shift)
                if fitted.loss is not None:
                    said = f"{fitted.update}, loses {fitted.loss:.1%}"
                    notes[layer.name].append(said)
    return {name: ", ".join(each) for name, each in notes.items()}


__all__ = ["Removed", "least", "remove_planned", "remove_share", "to_go"]
