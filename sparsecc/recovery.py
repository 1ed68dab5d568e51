"""Recovery of what pruning lost: the dense model teaches its sparse twin (``sparsecc.torch``)."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.errors import BackendError, CalibrationError
from sparsecc.progress import Progress
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.effort import Effort
from sparsecc.request import Request
from sparsecc.search.plan import PlanRecovery

RELIEF = 3.0
"""A search allows this many times the budgeted drop where a recovery follows: two thirds of what
pruning loses come back."""


def recovered(
    dense: ir.Model,
    graph: ir.Model,
    data: Calibration | None,
    request: Request,
    effort: Effort,
    progress: Progress,
) -> PlanRecovery:
    """Train a pruned model in place, its zeros kept.

    Args:
        dense: The teacher.
        graph: A pruned copy of it.
        data: What to learn on.
        request: Loss, seed and checkpoint.
        effort: How long.
        progress: Told what is being done.

    Raises:
        CalibrationError: There are no data.
        BackendError: torch is not installed.
        SparseccError: The model cannot be interpreted, or the checkpoint is of something else.
    """
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
        dense,
        graph,
        data,
        effort,
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
