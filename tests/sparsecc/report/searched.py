"""A report as a search would leave it: a compiled model's, with options, points and a budget."""

from __future__ import annotations

import dataclasses

from sparsecc.formats.patterns import Pattern
from sparsecc.report import Report
from sparsecc.search.plan import Choice, PlanBudget, PlanLayer, PlanOption, PlanPoint

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
PATTERNS = ("4x1", "16x1", "unstructured")
LIMIT = 0.01


def searched(report: Report) -> Report:
    """The report, its plan filled in: every layer of the plan gets options, losses grow with zeros.

    Nothing here was measured; the figures only have the form and the order of real ones.
    """
    assert report.plan is not None
    layers = tuple(_weighed(layer, at) for at, layer in enumerate(report.plan.layers))
    dense = report.dense_ms
    points = [
        PlanPoint(
            name=f"uniform {pattern}:{share}",
            predicted_ms=dense * (1.12 - share) * penalty,
            drop=0.012 * (share / 0.8) ** 6 * penalty,
        )
        for pattern, penalty in (("4x1", 1.0), ("16x1", 1.15))
        for share in SPARSITIES
    ]
    points += [
        PlanPoint(name=f"searched {n}", predicted_ms=dense * (0.5 - 0.04 * n), drop=0.0012 * n**1.1)
        for n in range(1, 8)
    ]
    points.append(PlanPoint(name="dense", predicted_ms=dense, drop=0.0))
    fitting = [point for point in points if point.drop <= LIMIT]
    chosen = min(fitting, key=lambda point: point.predicted_ms)
    plan = report.plan.model_copy(
        update={
            "spec": "search",
            "mode": "fast",
            "costs": "0f" * 32,
            "budget": PlanBudget(
                kind="drop", limit=LIMIT, metric="top-1 agreement", drop=chosen.drop, met=True
            ),
            "points": tuple(
                point.model_copy(update={"chosen": point == chosen})
                for point in sorted(points, key=lambda point: point.predicted_ms)
            ),
            "layers": layers,
        }
    )
    return dataclasses.replace(report, plan=plan)


def _weighed(layer: PlanLayer, at: int) -> PlanLayer:
    dense = layer.dense_ms or 0.0
    tender = 1 + (at * 7) % 5  # some layers lose more than their neighbours
    options = [
        _option(layer, pattern, share, dense, 0.002 * tender * (share / 0.5) ** 4)
        for pattern in PATTERNS
        for share in SPARSITIES
    ]
    options.append(_option(layer, "dense", 0.0, dense, 0.0))
    options = sorted(options, key=lambda option: option.predicted_ms)
    chosen = next(
        (option for option in options if (option.loss or 0) < 0.03),
        options[-1],
    )
    told = tuple(
        option
        if option is chosen
        else option.model_copy(update={"why_not": _why_not(option, chosen)})
        for option in options
    )
    return layer.model_copy(
        update={
            "choice": chosen.choice,
            "loss": chosen.loss,
            "spread": 0.04 + 0.01 * tender,
            "options": told,
        }
    )


def _option(layer: PlanLayer, pattern: str, share: float, dense: float, loss: float) -> PlanOption:
    return PlanOption(
        choice=Choice(pattern=Pattern.parse(pattern), sparsity=share, method="alps"),
        density=1 - share,
        loss=loss,
        predicted_ms=dense * (1.15 - share) if share else dense,
        weight_bytes=round(layer.rows * layer.cols * 4 * (1 - share) * 1.2),
    )


def _why_not(option: PlanOption, chosen: PlanOption) -> str:
    if option.predicted_ms >= chosen.predicted_ms:
        return f"{option.predicted_ms - chosen.predicted_ms:.3f} ms slower, and the budget is kept"
    return f"loses {(option.loss or 0) / max(chosen.loss or 0, 1e-6):.1f}x as much"
