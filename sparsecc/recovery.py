"""Recovery of what pruning lost: the dense model teaches its sparse twin (``sparsecc.torch``)."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import BackendError, CalibrationError
from sparsecc.identity import model_hash
from sparsecc.job import Job
from sparsecc.measure import largest_error
from sparsecc.progress import Progress
from sparsecc.quality.calibration import first
from sparsecc.search.plan import PlanRecovery

NAME = "recovery"
"""As a report names it."""
JUDGED_SAMPLES = 32
"""Held-out samples that tell whether anything was lost."""
IN_VAIN = 1e-4
"""Share of the outputs that a change of the weights must make for a recovery to have a sense: less
is rounding, as exact factors leave it."""
RELIEF = 2.0
"""A search allows this many times the budgeted drop where a recovery follows: more than half of
what pruning loses comes back."""


def recovered(job: Job, graph: ir.Model, progress: Progress) -> PlanRecovery | None:
    """Train a pruned model in place, its zeros kept, if that was asked for.

    Args:
        job: Its dense model teaches.
        graph: A changed copy of that model.
        progress: Told what is being done.

    Returns:
        How it went; None where nobody asked, or the outputs are the dense model's: then the report
        says so.

    Raises:
        CalibrationError: There are no data.
        BackendError: torch is not installed.
        SparseccError: The model cannot be interpreted, or the checkpoint is of something else.
    """
    request, data = job.request, job.data
    if request.recover is None:
        return None
    if model_hash(graph) == model_hash(job.graph):
        job.ctx.refuse(NAME, None, "nothing to recover: no weight was changed")
        return None
    if data is None:
        raise CalibrationError(
            "recovery learns from the dense model on typical inputs, and there are none",
            fix="pass calibration (no labels are needed), or do without recovery",
        )
    progress("recovery: what there is to win back", 0.0)
    feeds = first(data.held_out or data.train, JUDGED_SAMPLES)
    off = largest_error(session_of_model(graph), session_of_model(job.graph), feeds)
    if off <= IN_VAIN:
        job.ctx.refuse(NAME, None, "nothing to recover: the outputs are the dense model's")
        return None
    try:
        from sparsecc.torch.recovery.recover import recover
    except ImportError as error:
        raise BackendError(
            f"recovery needs torch and safetensors: {error}", fix="pip install 'sparsecc[torch]'"
        ) from error
    done = recover(
        job.graph,
        graph,
        data,
        request.recover,
        loss=request.recover_loss,
        seed=request.seed,
        checkpoint=request.checkpoint,
        progress=progress,
    )
    return PlanRecovery(
        steps=done.steps,
        best=done.best,
        before=done.before,
        after=done.after,
        reason=done.reason,
    )


__all__ = ["RELIEF", "recovered"]
