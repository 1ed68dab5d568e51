"""Writes the files of an ONNX Runtime artifact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.bundle.whole import Port
from sparsecc.backends.codegen.code_table import Pattern, code_table
from sparsecc.backends.mobile.arrange import NOTES, write_notes
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.save import save_model
from sparsecc.manifest import MODEL_NAME, RUN_NAME
from sparsecc.targets import Target

_RUN = '''"""Runs this model on onnxruntime alone: python run.py inputs.npz"""
import pathlib, sys
import numpy, onnxruntime

if len(sys.argv) != 2:
    sys.exit("usage: python run.py inputs.npz, with an array for each of " + ", ".join({inputs}))
here = pathlib.Path(__file__).resolve().parent
options = onnxruntime.SessionOptions()
{register}session = onnxruntime.InferenceSession(str(here / "{model}"), options)
outputs = session.run(None, dict(numpy.load(sys.argv[1], allow_pickle=False)))
for meta, output in zip(session.get_outputs(), outputs):
    print(meta.name, output.shape, output.dtype, output.ravel()[:8])
'''


def emit(
    model: ir.Model, target: Target, folder: Path, generated: Iterable[Pattern] = ()
) -> str | None:
    """Write model, library and ``run.py`` into a folder.

    Args:
        model: A lowered model.
        target: What the library is built for.
        folder: An empty folder.
        generated: Patterns of zeros that the library gets machine code for.

    Returns:
        File name of the library, or None when no layer runs sparse.

    Raises:
        BackendError: The toolchain failed.
    """
    save_model(model, folder)
    library = None
    if any(ops.is_ours(node) for node in model.graph.all_nodes()):
        library = build_library(target, folder, code_table(generated)).name
    register = ""
    if library is not None and target.triple in NOTES:
        write_notes(folder, target, library, _first_input(model))
    elif library is not None:
        register = f'options.register_custom_ops_library(str(here / "{library}"))\n'
    inputs = tuple(str(value.name) for value in model.graph.inputs)
    text = _RUN.format(register=register, model=MODEL_NAME, inputs=inputs)
    (folder / RUN_NAME).write_bytes(text.encode())
    return library


def _first_input(model: ir.Model) -> Port:
    """What an example feeds."""
    value = model.graph.inputs[0]
    dims = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
    dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
    return Port(str(value.name), dtype, tuple(dims))
