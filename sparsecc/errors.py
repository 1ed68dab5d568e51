"""Errors a user can act on.

Every mistake of a caller (a bad file, a bad option, an impossible request) raises a subclass of
:class:`SparseccError`. Anything else that escapes is a bug of sparsecc itself.
"""

from __future__ import annotations


class SparseccError(Exception):
    """A mistake the user can mend, in one sentence, with the way out.

    Args:
        message: What is wrong, naming the file, tensor or option and its shape or value.
        node: Name of the graph node it happened at, if there is one.
        fix: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, node: str | None = None, fix: str | None = None) -> None:
        self.message = message
        self.node = node
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        where = f" (at node {self.node!r})" if self.node else ""
        way_out = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.message}{where}{way_out}"


class ModelError(SparseccError):
    """The model cannot be read or captured, or is not one sparsecc can compile."""

    exit_code = 3


class UnsupportedOpError(ModelError):
    """The torch interpreter has no such op, or not with this attribute."""

    exit_code = 11


class CalibrationError(SparseccError):
    """Calibration data does not fit the model."""

    exit_code = 4


class PlanError(SparseccError):
    """A sparsity request or a plan file is malformed or impossible."""

    exit_code = 5


class TargetError(SparseccError):
    """The target is unknown, or this machine cannot serve it."""

    exit_code = 6


class CostTableError(SparseccError):
    """A calibration table cannot be read, or is of another target or of other kernels."""

    exit_code = 10


class ArtifactError(SparseccError):
    """An artifact folder is missing, incomplete, altered or cannot be written."""

    exit_code = 7


class ReportError(SparseccError):
    """A report cannot be written."""

    exit_code = 9


class TuningError(SparseccError):
    """A tuning database cannot be used, or there is too little time to tune."""

    exit_code = 12


class SimulationError(SparseccError):
    """A model or a cluster to simulate is not described well, or the one does not fit the other."""

    exit_code = 13


class BackendError(SparseccError):
    """A toolchain or runtime that sparsecc drives refused its work."""

    exit_code = 8


def first_line(error: BaseException) -> str:
    """What an error of another program says, to go into a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


__all__ = [
    "ArtifactError",
    "BackendError",
    "CalibrationError",
    "CostTableError",
    "ModelError",
    "PlanError",
    "ReportError",
    "SimulationError",
    "SparseccError",
    "TargetError",
    "TuningError",
    "UnsupportedOpError",
]
