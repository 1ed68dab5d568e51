"""A compiled model: an artifact folder that can be called."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.artifact import copy_artifact, open_artifact
from sparsecc.backends.onnxruntime.run import check_runs_here
from sparsecc.engines import open_engine
from sparsecc.errors import ModelError
from sparsecc.manifest import Manifest
from sparsecc.measure import Session
from sparsecc.report import Report
from sparsecc.search.plan import Plan
from sparsecc.state import Sampling

Array = NDArray[Any]


class Compiled:
    """A model that sparsecc compiled, ready to be called, looked at and saved.

    Call it with numpy arrays or torch tensors, by position or by input name: one output comes
    back as an array (or tensor), several as a tuple. One that searches blocks of attention while
    it runs is called through :meth:`steps`.

    Attributes:
        path: The artifact folder.
        manifest: What the folder says about itself.
        portable: Whether the dense portable bodies run instead of the library, where there are any.
    """

    def __init__(self, path: Path, manifest: Manifest, *, portable: bool = False) -> None:
        self.path = path
        self.manifest = manifest
        self.portable = portable

    @functools.cached_property
    def session(self) -> Session:
        """What runs it, opened at the first use: an ONNX Runtime session, or one like it.

        Raises:
            TargetError: Nothing on this machine does.
        """
        return open_engine(self.path, self.manifest, portable=self.portable)

    @functools.cached_property
    def plan(self) -> Plan:
        """What was done to each layer."""
        return Plan.from_json(json.dumps(self.manifest.plan))

    @functools.cached_property
    def report(self) -> Report:
        """What was done and why, for reading: ``print(compiled.report)``."""
        return Report.from_manifest(self.manifest)

    @property
    def quality(self) -> dict[str, float]:
        """Measured agreement with the user's dense model."""
        return self.manifest.quality

    @property
    def size_bytes(self) -> int:
        """Bytes of the artifact's files, its report not counted."""
        return self.manifest.size_bytes

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, for inputs by name.

        Raises:
            ModelError: Names, ranks or dtypes do not fit the model.
        """
        wanted = [meta.name for meta in self.session.get_inputs()]
        if set(feeds) != set(wanted):
            carried = {each.name for each in self.manifest.state} - set(feeds)
            raise ModelError(
                f"got the inputs {sorted(feeds)}, the model wants {wanted}",
                fix="it carries blocks of attention from call to call: call what steps() gives, "
                "once for each step of a sampling"
                if carried
                else "pass every input once, by its name",
            )
        try:
            results = self.session.run(None, dict(feeds))
        except Exception as error:
            raise ModelError(f"the model refused its inputs: {str(error).strip()}") from error
        names = [meta.name for meta in self.session.get_outputs()]
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs for inputs by position or name; torch tensors in, torch tensors out."""
        names = [meta.name for meta in self.session.get_inputs()]
        return _called(self.run, names, args, kwargs)

    def steps(self) -> Steps:
        """The calls of a sampling, for a model that carries blocks of attention between them.

        Raises:
            ModelError: It carries nothing.
        """
        sampling = Sampling.of(self.manifest)
        if sampling is None:
            raise ModelError(
                "the model carries nothing from call to call",
                fix="call it as it is; online=... makes one whose attention searches as it runs",
            )
        return Steps(self, sampling)

    def save(self, folder: str | Path) -> Path:
        """Write the artifact to a folder, completely or not at all.

        Raises:
            ArtifactError: The folder holds something else, or cannot be written.
        """
        copy_artifact(self.path, Path(folder))
        return Path(folder)


class Steps:
    """The calls of a sampling, in order: what attention keeps goes from each to the next.

    Call it as the model, without the step and the blocks. Samplings that run side by side, such as
    one with a prompt and one without, each need their own.

    Attributes:
        model: What is called.
        step: Number of the next call.
    """

    def __init__(self, model: Compiled, sampling: Sampling) -> None:
        self.model = model
        self._sampling = sampling
        self.begin()

    def begin(self) -> None:
        """Begin another sampling: the next call is its first."""
        self.step = 0
        self._state = self._sampling.begun()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the next call by name, for inputs by name.

        Raises:
            ModelError: Inputs do not fit the model, or the sampling is over.
        """
        if self.step == self._sampling.steps:
            raise ModelError(
                f"the sampling of {self.step} steps is over",
                fix="call begin() before the next, or compile with as many steps in online",
            )
        if given := sorted({*feeds} & {*self._state}):
            raise ModelError(f"{given} are carried from call to call", fix="leave them out")
        outputs = self.model.run({**feeds, **self._state})
        self.step += 1
        self._state = self._sampling.following(self.step, outputs)
        return {name: each for name, each in outputs.items() if name not in self._sampling.carried}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs of the next call for inputs by position or name, as those of the model."""
        inputs = (meta.name for meta in self.model.session.get_inputs())
        return _called(self.run, [name for name in inputs if name not in self._state], args, kwargs)


def _called(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    names: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """What `run` makes of arguments: one array or tensor, or a tuple of them."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(args) > len(names) or len(given) != len(args) + len(kwargs):
        raise ModelError(f"too many inputs, or one given twice: the model wants {list(names)}")
    outputs: list[Any] = list(
        run({name: _as_array(name, value) for name, value in given.items()}).values()
    )
    if any(_is_tensor(value) for value in given.values()):
        import torch

        outputs = [torch.from_numpy(output) for output in outputs]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def load(folder: str | Path) -> Compiled:
    """Open an artifact folder.

    Raises:
        ArtifactError: It is missing, incomplete or altered.
        TargetError: It is for ONNX Runtime on another processor; what has a runtime of its own is
            opened anywhere, and says so when it is called.
    """
    path = Path(folder)
    manifest = open_artifact(path)
    if manifest.library is not None:
        check_runs_here(manifest)
    return Compiled(path, manifest)


def _is_tensor(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def _as_array(name: str, value: Any) -> Array:
    try:
        return value.detach().cpu().numpy() if _is_tensor(value) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"input {name!r} cannot be made a numpy array: {error}",
            fix="pass an array or a tensor of a dtype that numpy has, such as float32",
        ) from error
