"""Sessions over artifacts and models, with and without the custom-op library."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from sparsecc import targets
from sparsecc.backends.onnxruntime.save import save_model
from sparsecc.errors import BackendError, TargetError
from sparsecc.manifest import MODEL_NAME, Manifest

FATAL_SEVERITY = 4  # what goes wrong is raised: logging it too would tell it twice


class PortableFallbackWarning(UserWarning):
    """The library cannot serve this processor; the dense bodies of the model are used."""


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Quiet options with one inter-op thread and ``threads`` (None: all cores) intra-op ones."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_SEVERITY
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0
    return options


def open_session(
    model: Path | bytes,
    *,
    library: Path | None = None,
    threads: int | None = None,
    plans_memory: bool = True,
) -> ort.InferenceSession:
    """A CPU session over a model file or its bytes.

    Args:
        model: ONNX file, or a serialised model without external data.
        library: Custom-op library of the artifact.
        threads: Intra-op threads; None for all cores.
        plans_memory: Whether a second run of the same sizes has its memory planned as one piece,
            which is as much again and quicker from the third run on.

    Raises:
        BackendError: ONNX Runtime refuses the model; its message names the node.
    """
    options = session_options(threads)
    options.enable_mem_pattern = plans_memory
    if library is not None:
        _register(options, library)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot load the model: {error}",
            fix="check the model with `sparsecc inspect`, or try a newer onnxruntime",
        ) from error


def _register(options: ort.SessionOptions, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        message = str(error)
        if "sparsecc" not in message or "x86-64-v3" not in message:
            raise BackendError(
                f"the library {library.name} does not load: {message}",
                fix="compile for this machine: target='native'",
            ) from error
        warnings.warn(f"running dense: {message}", PortableFallbackWarning, stacklevel=3)


def check_runs_here(manifest: Manifest) -> None:
    """Check that an artifact's library can be loaded on this machine.

    Raises:
        TargetError: It was built for another processor.
    """
    target = targets.described(manifest.target, manifest.hardware)
    if not targets.runs_here(target):
        raise TargetError(
            f"the artifact was compiled for {target.name}, which this machine is not",
            fix="copy the folder to such a machine, or compile with target='native'; model.onnx "
            "alone runs on stock onnxruntime, densely",
        )


def session_of_model(model: ir.Model, threads: int | None = None) -> ort.InferenceSession:
    """A session over a model in memory for a few runs; sparse ops run their portable bodies."""
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as scratch:
        save_model(model, Path(scratch), inline_bytes=0)  # the quickest to write and read
        return open_session(Path(scratch) / MODEL_NAME, threads=threads, plans_memory=False)
