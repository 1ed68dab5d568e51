"""sparsecc: a compiler that makes trained models sparse, faster and still right.

>>> import sparsecc
>>> model = sparsecc.compile("model.onnx", calibration="inputs.npz", max_drop=0.01)
>>> print(model.report)
>>> model.save("out")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsecc.backends.onnxruntime.ep import execution_provider
    from sparsecc.compiled import Compiled, load
    from sparsecc.driver import apply, compile, plan
    from sparsecc.errors import (
        ArtifactError,
        BackendError,
        CalibrationError,
        CostTableError,
        ModelError,
        PlanError,
        ReportError,
        SparseccError,
        TargetError,
    )
    from sparsecc.search.plan import Plan
    from sparsecc.targets import Target

__version__ = "0.1.0"

_HOME = {
    "apply": "sparsecc.driver",
    "compile": "sparsecc.driver",
    "plan": "sparsecc.driver",
    "execution_provider": "sparsecc.backends.onnxruntime.ep",
    "load": "sparsecc.compiled",
    "Compiled": "sparsecc.compiled",
    "Plan": "sparsecc.search.plan",
    "Target": "sparsecc.targets",
    "ArtifactError": "sparsecc.errors",
    "BackendError": "sparsecc.errors",
    "CalibrationError": "sparsecc.errors",
    "CostTableError": "sparsecc.errors",
    "ModelError": "sparsecc.errors",
    "PlanError": "sparsecc.errors",
    "ReportError": "sparsecc.errors",
    "SparseccError": "sparsecc.errors",
    "TargetError": "sparsecc.errors",
}
"""Where each public name lives. They load on first use, so that importing sparsecc is quick."""

__all__ = [
    "ArtifactError",
    "BackendError",
    "CalibrationError",
    "Compiled",
    "CostTableError",
    "ModelError",
    "Plan",
    "PlanError",
    "ReportError",
    "SparseccError",
    "Target",
    "TargetError",
    "__version__",
    "apply",
    "compile",
    "execution_provider",
    "load",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
