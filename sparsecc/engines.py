"""What runs an artifact on this machine: ONNX Runtime, a library by itself, or wasmtime.

Each is imported where it is opened: a process that measures one holds no other.
"""

from __future__ import annotations

from pathlib import Path

from sparsecc import targets
from sparsecc.errors import TargetError
from sparsecc.manifest import MODEL_NAME, Manifest
from sparsecc.measure import Session
from sparsecc.targets import Target


def target_of(manifest: Manifest) -> Target:
    """What an artifact was compiled for.

    Raises:
        TargetError: The manifest describes no target.
    """
    return targets.described(manifest.target, manifest.hardware)


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
    if manifest.has_model:
        from sparsecc.backends.onnxruntime.run import check_runs_here, open_session

        own = None if portable or manifest.library is None else folder / manifest.library
        if own is not None:
            check_runs_here(manifest)
        session: Session = open_session(folder / MODEL_NAME, library=own, threads=threads)
        return session
    target = target_of(manifest)
    if why := why_not_here(target):
        raise TargetError(
            why, fix="run it where it is meant to run; its hashes can be checked here"
        )
    if target.family == "wasm":
        from sparsecc.backends.web.run import WebSession

        return WebSession(folder)
    from sparsecc.backends.bundle.run import open_bundle

    return open_bundle(folder)


def why_not_here(target: Target) -> str:
    """Why nothing on this machine runs what is compiled for a target, or ""."""
    if target.family == "wasm" or targets.runs_here(target):
        return ""
    return f"nothing on this machine runs what was compiled for {target.name}"
