"""Hardware that sparsecc compiles for: one frozen dataclass each, one file per family."""

from sparsecc.targets.base import Target
from sparsecc.targets.registry import (
    TARGETS,
    buildable,
    described,
    get,
    is_buildable,
    read,
    runs_here,
)

__all__ = [
    "TARGETS",
    "Target",
    "buildable",
    "described",
    "get",
    "is_buildable",
    "read",
    "runs_here",
]
