"""Making a model smaller before it is pruned: channels or heads that it can do without go."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from sparsecc.formats.patterns import DENSE
from sparsecc.job import Job
from sparsecc.passes.remove.remove import Removed, remove_planned, remove_share
from sparsecc.passes.weights.layers import find_layers
from sparsecc.progress import Counted, Progress, counted, part
from sparsecc.request import Request
from sparsecc.search.allocation import by_override
from sparsecc.search.plan import PlanRemoval

SHARE = 0.3
"""Share of the progress that it is."""


def smaller(
    job: Job, asked: Request | Sequence[PlanRemoval], progress: Progress
) -> tuple[Job, Removed, Progress]:
    """The job with a dense model that has lost some of its channels or heads.

    Args:
        job: Its context is told of what cannot be made smaller.
        asked: A request that removes some, or what a plan says.
        progress: Told what is being done.

    Returns:
        The job, what was removed, and the progress of what follows; the job as it is where nothing
        is asked for.

    Raises:
        PlanError: Nothing can be removed, or the model has not what a plan removes.
        CalibrationError: The model does not run on the data.
    """
    if not asked:
        return job, Removed((), {}), progress
    graph, told = job.graph.clone(), counted(part(progress, 0.0, SHARE))
    if isinstance(asked, Request):
        removed = _as_asked(graph, asked, job, told)
    else:
        removed = remove_planned(graph, asked, job.data, job.ctx, on_progress=told)
    return dataclasses.replace(job, graph=graph), removed, part(progress, SHARE, 1.0)


def _as_asked(model: ir.Model, request: Request, job: Job, told: Counted) -> Removed:
    named = by_override(find_layers(model).layers, request.overrides)
    stay = {name for name, spec in named.items() if spec.pattern == DENSE}
    spec = request.spec
    assert spec.removes
    return remove_share(
        model,
        spec.removes,
        spec.sparsity,
        job.data,
        job.ctx,
        stays=stay.__contains__,
        refit=request.refit,
        on_progress=told,
    )


__all__ = ["smaller"]
