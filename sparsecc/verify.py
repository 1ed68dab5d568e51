"""Is an artifact right? Its outputs against two independent ways to compute them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.artifact import open_artifact
from sparsecc.backends.onnxruntime.run import check_runs_here, open_session, session_of_model
from sparsecc.errors import ArtifactError
from sparsecc.manifest import MODEL_NAME
from sparsecc.measure import TOLERANCE, max_rel_error, run_once
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.inline import InlineRegions
from sparsecc.passes.verifier import verify_model
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.quality.example_inputs import example_inputs

Array = NDArray[Any]
Progress = Callable[[str, float], None]


def verify(folder: str | Path, progress: Progress | None = None) -> dict[str, Any]:
    """Check an artifact: structure, library against twin, library against portable bodies.

    Args:
        folder: The artifact folder.
        progress: Called with what is being done and the share done.

    Returns:
        ``{"ok": bool, "max_rel_error": float, "checks": [{"name", "ok", "max_rel_error"}]}``.

    Raises:
        ArtifactError: The folder is missing, incomplete or altered, or its model is malformed.
        TargetError: It was compiled for another processor.
    """
    path = Path(folder)
    say = progress or (lambda text, share: None)
    say("checking hashes", 0.0)
    manifest = open_artifact(path)
    if manifest.library:
        check_runs_here(manifest)
    say("checking the graph", 0.2)
    model = _read(path / MODEL_NAME)
    feeds = example_inputs(model)
    say("running the artifact", 0.4)
    library = path / manifest.library if manifest.library else None
    ours = run_once(open_session(path / MODEL_NAME, library=library), feeds)
    say("running the masked-dense twin", 0.6)
    by_twin = run_once(session_of_model(twin_of(model)), feeds)
    say("running the portable bodies", 0.8)
    by_bodies = run_once(open_session(path / MODEL_NAME), feeds)
    checks = [
        _check("masked-dense twin", ours, by_twin),
        _check("portable bodies", ours, by_bodies),
    ]
    say("done", 1.0)
    return {
        "ok": all(check["ok"] for check in checks),
        "max_rel_error": max(check["max_rel_error"] for check in checks),
        "checks": checks,
    }


def _read(path: Path) -> ir.Model:
    """The model, once it is sound: right hashes say nothing about who wrote them."""
    try:
        model = ir.load(path)
        verify_model(model)
        run([InlineRegions()], model.clone(), Context(verify=True))
    except Exception as error:  # protobuf and onnx_ir raise what they like on foreign bytes
        raise ArtifactError(
            f"{path} is not a sound model: {error}", fix="compile the model again"
        ) from error
    return model


def _check(name: str, got: list[Array], wanted: list[Array]) -> dict[str, Any]:
    error = max_rel_error(got, wanted)
    return {"name": name, "ok": error <= TOLERANCE, "max_rel_error": error}
