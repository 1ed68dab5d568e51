"""One side of a race: an ONNX file in TVM's own default pipeline. Read by path by a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

if TYPE_CHECKING:
    from sparsecc.bench.worker import Arrays, Job, Side


def open_side(job: Job, feeds: Arrays) -> Side:
    """A job as TVM compiles it for this processor, without anything of ours."""
    module = from_onnx(onnx.load(job["model"]), keep_params_in_input=False)
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    made = tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu}))
    main = relax.VirtualMachine(made, tvm.cpu())["main"]
    tensors = [tvm.runtime.tensor(array) for array in feeds.values()]
    return lambda: main(*tensors), _read


def _read(result: object) -> Arrays:
    outputs = [result] if hasattr(result, "numpy") else list(result)  # type: ignore[call-overload]
    return {f"output {at}": output.numpy() for at, output in enumerate(outputs)}
