"""What `import sparsecc` gives: these names, documented, quickly, and nothing heavy."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time

import pytest

import sparsecc

PUBLIC = [
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
HEAVY = ("torch", "tvm", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "numpy", "scipy")
LIMIT_S = 0.5


def test_the_public_names_are_these() -> None:
    assert sparsecc.__all__ == PUBLIC
    assert dir(sparsecc) == PUBLIC
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        sparsecc.magic  # noqa: B018


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    each = getattr(sparsecc, name)
    assert each.__doc__
    assert each.__name__ == name
    if inspect.isclass(each):
        methods = [m for n, m in vars(each).items() if inspect.isfunction(m) and n[0] != "_"]
        assert all(method.__doc__ for method in methods)
    else:
        for parameter in inspect.signature(each).parameters.values():
            assert parameter.annotation is not parameter.empty
            assert name == "load" or f"{parameter.name}:" in each.__doc__


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert sparsecc.__version__ == version("sparsecc")


def fresh(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_pulls_in_nothing_heavy() -> None:
    loaded = json.loads(fresh("import sparsecc, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert not set(HEAVY) & set(loaded)


def test_compiling_an_onnx_file_needs_no_torch() -> None:
    program = "import sparsecc, sys; sparsecc.compile; print({'torch', 'tvm'} & set(sys.modules))"
    assert fresh(program).strip() == "set()"


def test_importing_is_quick() -> None:
    def seconds(program: str) -> float:
        start = time.perf_counter()
        fresh(program)
        return time.perf_counter() - start

    assert min(seconds("import sparsecc") for _ in range(3)) < LIMIT_S
