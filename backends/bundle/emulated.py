"""Sessions over bundles of another processor: their program, run by an emulator of Linux."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.bundle.run import refusal
from sparsecc.backends.bundle.weights import NAME as WEIGHTS_NAME
from sparsecc.errors import BackendError

EMULATORS: Mapping[str, tuple[str, ...]] = {
    "aarch64-linux-gnu": ("qemu-aarch64-static", "qemu-aarch64"),
}
"""Triple → programs that run its programs."""
_UNWRITABLE = str.maketrans(dict.fromkeys('/\\:*?"<>|', "_"))


def emulator(triple: str) -> str | None:
    """The program on this machine that runs those of a triple."""
    found = (shutil.which(name) for name in EMULATORS.get(triple, ()))
    return next((path for path in found if path), None)


class EmulatedSession:
    """A bundle that a process of an emulator runs, anew each time.

    Args:
        folder: Has the weights and the program.
        name: Of the program.
        command: The emulator.
        inputs: Of the model; each has a ``name``.
        outputs: Likewise.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        command: str,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        self._folder, self._name, self._command = folder.resolve(), name, command
        self._inputs, self._outputs = inputs, outputs

    def get_inputs(self) -> Sequence[Any]:
        """The inputs of the model."""
        return self._inputs

    def get_outputs(self) -> Sequence[Any]:
        """The outputs of the model."""
        return self._outputs

    def run(
        self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """The outputs of these names, or all, for inputs by name.

        Raises:
            BackendError: An input is missing, or the program refuses them; with what it said.
        """
        with tempfile.TemporaryDirectory(prefix="sparsecc-") as scratch:
            files = []
            for at, port in enumerate(self._inputs):
                if port.name not in feed:
                    raise BackendError(f"input {port.name!r} is missing", fix="feed every input")
                files.append(str(Path(scratch) / f"{at}.npy"))
                np.save(files[-1], np.ascontiguousarray(feed[port.name]))
            self._call([*files, "-o", scratch])
            wanted = names or [port.name for port in self._outputs]
            paths = [Path(scratch) / f"{_file_name(name)}.npy" for name in wanted]
            return [np.load(path, allow_pickle=False) for path in paths]

    def _call(self, arguments: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory(prefix="sparsecc-") as place:
            program = Path(place) / self._name  # an artifact's files need not be executable
            shutil.copyfile(self._folder / self._name, program)
            program.chmod(0o700)
            weights = str(self._folder / WEIGHTS_NAME)
            command = [self._command, str(program), weights, *arguments]
            done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            mute = f"{self._command} ended with code {done.returncode}"
            raise refusal(done.stderr.strip() or mute.encode(), BackendError)


def _file_name(name: str) -> str:
    """What the program calls the file of an output."""
    return "".join("_" if ord(c) < 32 else c for c in name.translate(_UNWRITABLE))
