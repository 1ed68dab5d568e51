"""Recovery of what pruning lost: the dense model teaches its sparse twin (``sparsecc.torch``)."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.errors import BackendError, CalibrationError
from sparsecc.identity import model_hash
from sparsecc.job import Job
from sparsecc.progress import Progress
from sparsecc.search.plan import PlanRecovery

RELIEF = 3.0
"""A search allows this many times the budgeted drop where a recovery follows: two thirds of what
pruning loses come back."""


def recovered(job: Job, graph: ir.Model, progress: Progress) -> PlanRecovery | None:
    """Train a pruned model in place, its zeros kept, if that was asked for.

    Args:
        job: Its dense model teaches.
        graph: A changed copy of that model.
        progress: Told what is being done.

    Returns:
        How it went; None where nobody asked, or nothing was changed that could be won back.

    Raises:
        CalibrationError: There are no data.
        BackendError: torch is not installed.
        SparseccError: The model cannot be interpreted, or the checkpoint is of something else.
    """
    request, data = job.request, job.data
    if request.recover is None or model_hash(graph) == model_hash(job.graph):
        return None
    if data is None:
        raise CalibrationError(
            "recovery learns from the dense model on typical inputs, and there are none",
            fix="pass calibration (no labels are needed), or do without recovery",
        )
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
