"""Is an artifact right? Its outputs against two independent ways to compute them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsecc.artifact import open_artifact
from sparsecc.backends.onnxruntime.run import check_runs_here, open_session, session_of_model
from sparsecc.engines import open_engine, open_variants
from sparsecc.errors import ArtifactError
from sparsecc.manifest import MODEL_NAME, Manifest
from sparsecc.measure import Session, run_once, tolerance
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.inline import InlineRegions
from sparsecc.passes.verifier import verify_model
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.quality.example_inputs import example_inputs
from sparsecc.reference import distance, feeds_for
from sparsecc.state import ERROR, Sampling, numerics

Progress = Callable[[str, float], None]


def verify(folder: str | Path, progress: Progress | None = None) -> dict[str, Any]:
    """Check an artifact: structure, library against twin, library against portable bodies.

    One without ONNX Runtime has no model in it: what runs it is compared with what the twin gave
    when it was compiled.

    Args:
        folder: The artifact folder.
        progress: Called with what is being done and the share done.

    Returns:
        ``{"ok": bool, "max_rel_error": float, "checks": [{"name", "ok", "max_rel_error"}]}``.

    Raises:
        ArtifactError: The folder is missing, incomplete or altered, or its model is malformed.
        TargetError: Nothing on this machine runs it.
    """
    path = Path(folder)
    say = progress or (lambda text, share: None)
    say("checking hashes", 0.0)
    manifest = open_artifact(path)
    if manifest.library:
        check_runs_here(manifest)
    compared = _by_model if manifest.has_model else _by_reference
    checks = compared(path, manifest, say)
    say("done", 1.0)
    return {
        "ok": all(check["ok"] for check in checks),
        "max_rel_error": max((check["max_rel_error"] for check in checks), default=0.0),
        "checks": checks,
    }


def _by_model(path: Path, manifest: Manifest, say: Progress) -> list[dict[str, Any]]:
    """The library against the twin and the portable bodies, which the model gives."""
    say("checking the graph", 0.2)
    model = _read(path / MODEL_NAME)
    ours, sampling = open_engine(path, manifest), Sampling.of(manifest)
    others: dict[str, Callable[[], Session]] = {
        "masked-dense twin": lambda: session_of_model(twin_of(model)),
        "portable bodies": lambda: open_session(path / MODEL_NAME),
    }
    checks = []
    for at, (name, opened) in enumerate(others.items()):
        say(f"running the artifact and its {name}", 0.4 * (1 + at))
        found = numerics(ours, opened(), [example_inputs(model)], sampling)
        checks.append(_check(name, found[ERROR], manifest))
    return checks


def _by_reference(path: Path, manifest: Manifest, say: Progress) -> list[dict[str, Any]]:
    """What runs the artifact against what its twin gave when it was compiled."""
    say("running the artifact", 0.3)
    variants = open_variants(path, manifest)
    if not manifest.reference:
        return []
    feeds, checks = feeds_for(manifest.inputs, manifest.state), []
    for variant, session in variants.items():
        results, errors = run_once(session, feeds), [math.inf]
        if len(results) == len(manifest.reference):
            errors = list(map(distance, manifest.reference, results))
        which = f" ({variant})" if variant else ""
        name = f"masked-dense twin, as recorded{which}"
        checks.append(_check(name, max(errors), manifest))
    return checks


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


def _check(name: str, error: float, manifest: Manifest) -> dict[str, Any]:
    return {"name": name, "ok": error <= tolerance(manifest), "max_rel_error": error}
