"""Libraries for GPUs, on a machine without one.

The same functions of the host that start kernels are built for the CPU, and what they start is
replaced by the interpreter: order and types of arguments, strides, grids and scratch are then those
of the library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("tvm")
pytest.importorskip("triton")

from sparsecc import ops
from sparsecc.backends.cuda import steps
from sparsecc.backends.cuda.recipe import Step
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.backends.tvm.cuda import parts as parting
from sparsecc.backends.tvm.cuda.library import lowered
from sparsecc.backends.tvm.cuda.parts import PLACE
from sparsecc.backends.tvm.cuda.regions import Region
from sparsecc.backends.tvm.library import linker
from sparsecc.backends.tvm.load import load
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.targets import TARGETS
from tests import exact
from tests.backends.cuda.tools import needs_gcc
from tests.backends.tvm.gpu_models import CASES, FORMS_OF, feed

pytestmark = needs_gcc

ARCHES = ("sm_80", "sm_90")
CLOSE = 3e-3
"""Relative to the largest value: float16 rounds what kernels read to 5e-4, and what they write."""


def _same(form: str, *_: object) -> str:
    return form


def _for_cpu(model: ir.Model, arch: str, library: Path) -> None:
    """The model with its launches as a library that a CPU runs."""
    tvm = load()
    parts, module = lowered(model, TARGETS[f"cuda-{arch}"], "m")
    with tvm.transform.PassContext(opt_level=3):
        executable = tvm.relax.build(module, target=tvm.target.Target({"kind": "llvm"}))
    executable.export_library(str(library), fcompile=linker(library.parent))
    places = [parts.regions[str(each.name)] for each in parts.model.graph if each.domain == PLACE]
    steps = [_launch(region, step) for region in places for step in region.recipe.steps]
    library.with_suffix(".json").write_text(json.dumps(steps))


def _launch(region: Region, step: Step) -> tuple[str, dict[str, tuple[int, ...]]]:
    """A kernel, and the shapes of the tensors it is given."""
    named = {name: each for name, each in step.given.items() if isinstance(each, str)}
    return step.kernel.name, {name: region.tensors[each][1] for name, each in named.items()}


@pytest.fixture(scope="module", params=ARCHES)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of every case, made in one process."""
    folder, arch = tmp_path_factory.mktemp("gpu"), str(request.param)
    for name, make in CASES.items():
        model = make()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "WORTH_BYTES", 1)  # small layers have parts, too
            patch.setattr(parting, "_form", partial(_same, FORMS_OF.get(name, "columns")))
            _for_cpu(model, arch, folder / f"{name}.so")
        np.savez(folder / f"{name}.in.npz", **feed(model))
    poison = {"MALLOC_PERTURB_": "3"}  # what nothing writes to is NaN in float16
    command = [sys.executable, "-m", "tests.backends.tvm.gpu_child", str(folder), arch]
    done = subprocess.run(command, env=os.environ | poison, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_launches_compute_what_the_model_says(results: Path, name: str) -> None:
    model = CASES[name]()
    if any(map(ops.is_mixture, model.graph)):  # whose twin has a float32 constant in its loop
        (wanted,) = session_of_model(twin_of(model)).run(None, feed(model))
    else:
        (wanted,) = exact.outputs(twin_of(model), feed(model))
    with np.load(results / f"{name}.out.npz") as made:
        got = made["arr_0"]
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= CLOSE * np.abs(wanted).max()


def test_what_has_no_zeros_runs_on_tensor_cores_too() -> None:
    regions = parting.parts_of(CASES["dense"](), "m", TARGETS["cuda-sm_90"]).regions
    said = {name: each.kernel for name, each in regions.items()}
    layers = dict.fromkeys(("wq", "wk", "wv"), "matmul-dense")  # the last one stays in float32
    assert said == layers | {"attend": "attention-fp16-d64-m128"}
