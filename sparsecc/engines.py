"""What runs an artifact on this machine: ONNX Runtime, a library by itself, or an emulator.

Each is imported where it is opened: a process that measures one holds no other.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sparsecc import targets
from sparsecc.errors import TargetError
from sparsecc.manifest import MODEL_NAME, Manifest
from sparsecc.measure import Session
from sparsecc.targets import Target


def open_engine(
    folder: Path, manifest: Manifest, *, portable: bool = False, threads: int | None = None
) -> Session:
    """A session over an artifact whose files were checked.

    Args:
        folder: The artifact.
        manifest: What it says about itself.
        portable: Whether the dense bodies run instead of the library; where there are any.
        threads: Of ONNX Runtime; None for all cores. Others have one.

    Raises:
        TargetError: Nothing on this machine runs it.
        BackendError: What should run it refuses it, or is not installed.
        ArtifactError: The library or the weights are not whole.
    """
    if not manifest.has_model:
        return next(iter(open_variants(folder, manifest).values()))
    from sparsecc.backends.onnxruntime.run import check_runs_here, open_session

    own = None if portable or manifest.library is None else folder / manifest.library
    if own is not None:
        check_runs_here(manifest)
    session: Session = open_session(folder / MODEL_NAME, library=own, threads=threads)
    return session


def open_variants(folder: Path, manifest: Manifest) -> dict[str, Session]:
    """Sessions over all that computes in an artifact without ONNX Runtime, by a name for each.

    A page chooses one of several modules; a library is one.

    Raises:
        TargetError, BackendError, ArtifactError: As :func:`open_engine`.
    """
    target = targets.described(manifest.target, manifest.hardware)
    if why := why_not_here(target):
        raise TargetError(why, fix="run it where it belongs; its report can be read anywhere")
    if target.backend == "tvm":
        from sparsecc.backends.tvm.library import LIBRARY_NAME
        from sparsecc.backends.tvm.run import TvmSession

        device = "cuda" if target.family == "cuda" else "cpu"
        ends = manifest.inputs, manifest.outputs
        return {"": TvmSession(folder / LIBRARY_NAME, *ends, device)}
    if target.family == "wasm":
        from sparsecc.backends.web.run import MODULE, RELAXED, WebSession

        modules = {"": MODULE, "relaxed": RELAXED}
        return {
            name: WebSession(folder, module)
            for name, module in modules.items()
            if module in manifest.files
        }
    if targets.runs_here(target):
        from sparsecc.backends.bundle.run import open_bundle

        return {"": open_bundle(folder)}
    from sparsecc.backends.bundle.emulated import EmulatedSession, emulator

    command = str(emulator(target.triple))
    ends = (manifest.inputs, manifest.outputs)
    return {"": EmulatedSession(folder, manifest.name, command, *ends)}


def why_not_here(target: Target) -> str:
    """Why nothing on this machine runs a library or module made for a target, or ""."""
    if target.family == "wasm":
        found = importlib.util.find_spec("wasmtime") is not None
        return "" if found else "wasmtime, which runs WebAssembly here, is not installed"
    if target.family == "cuda" and not targets.runs_here(target):
        return f"there is no GPU here for {target.name}: it was built, and not run"
    from sparsecc.backends.bundle.emulated import emulator

    if targets.runs_here(target) or (target.backend != "tvm" and emulator(target.triple)):
        return ""
    return f"nothing on this machine runs what was compiled for {target.name}"
