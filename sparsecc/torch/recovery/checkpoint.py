"""State of a recovery in one .safetensors file, so that it can go on to the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparsecc.aside import aside
from sparsecc.errors import CalibrationError

_FORMAT = "1"
_KEY = "sparsecc-recovery"
_MAX_BYTES = 64 << 30


@dataclasses.dataclass(frozen=True)
class State:
    """Where a recovery stands.

    Attributes:
        identity: Hash of all that decides what it computes: model, data and settings.
        step: Steps taken.
        steps: Steps in all.
        pace: Factor on the step sizes; each divergence lowers it.
        divergences: How often it diverged.
        history: (step, held-out loss) of every examination.
        tensors: Weights, moments of the optimiser and best weights, by name.
    """

    identity: str
    step: int
    steps: int
    pace: float
    divergences: int
    history: tuple[tuple[int, float], ...]
    tensors: dict[str, Tensor]


def save(path: Path, state: State) -> None:
    """Write a state completely or not at all.

    Raises:
        CalibrationError: It cannot be written.
    """
    from safetensors.torch import save_file

    numbers = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(State)
        if field.name != "tensors"
    }
    try:
        with aside(path) as scratch:
            tensors = {
                name: each.detach().cpu().contiguous() for name, each in state.tensors.items()
            }
            save_file(tensors, scratch, {_KEY: _FORMAT, "state": json.dumps(numbers)})
    except OSError as error:
        raise CalibrationError(
            f"the checkpoint {path} cannot be written: {error}",
            fix="give a path in a folder that exists and has room",
        ) from error


def load(path: Path, identity: str) -> State | None:
    """The state in a file, or None where there is no file.

    Raises:
        CalibrationError: The file is no checkpoint, or one of other models, data or settings.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    fix = "delete it to start anew, or give another path"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get(_KEY) != _FORMAT:
                raise ValueError("it is none of this version's")
            numbers = json.loads(about["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = State(
            identity=str(numbers["identity"]),
            step=int(numbers["step"]),
            steps=int(numbers["steps"]),
            pace=float(numbers["pace"]),
            divergences=int(numbers["divergences"]),
            history=tuple((int(at), float(loss)) for at, loss in numbers["history"]),
            tensors=tensors,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CalibrationError(
            f"{path} is no checkpoint of a recovery: {error}", fix=fix
        ) from error
    if state.identity != identity:
        raise CalibrationError(
            f"the checkpoint {path} is of another model, other data or other settings", fix=fix
        )
    return state


def identity_of(parts: Sequence[object]) -> str:
    """Hash of what decides what a recovery computes, and of what computes it."""
    text = "\n".join(map(str, [_FORMAT, torch.__version__, *parts]))
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = ["State", "identity_of", "load", "save"]
