"""Hardware that sparsecc compiles for: one frozen dataclass each, one file per family."""

from sparsecc.targets.base import Target
from sparsecc.targets.registry import (
    BACKENDS,
    TARGETS,
    buildable,
    described,
    get,
    is_buildable,
    read,
    runs_here,
    with_backend,
)

__all__ = [
    "BACKENDS",
    "TARGETS",
    "Target",
    "buildable",
    "described",
    "get",
    "is_buildable",
    "read",
    "runs_here",
    "with_backend",
]
