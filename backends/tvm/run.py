"""Sessions over TVM libraries, through the runtime of the installed TVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sparsecc.backends.bundle.run import fitted
from sparsecc.backends.tvm.load import load
from sparsecc.errors import BackendError, ModelError, first_line
from sparsecc.manifest import PortEntry


class TvmSession:
    """A model in TVM's virtual machine, used as an ``onnxruntime.InferenceSession``.

    One thread at a time, as TVM's machine has it; machines of one library may run at once.

    Args:
        library: The library.
        inputs: Of the model, in the order of the function's parameters.
        outputs: Of the model, in the order of its results.
        device: What it is for, as TVM names it: ``cpu`` or ``cuda``.

    Raises:
        BackendError: TVM is missing or of another version, or the library does not load.
    """

    def __init__(
        self,
        library: Path,
        inputs: Sequence[PortEntry],
        outputs: Sequence[PortEntry],
        device: str = "cpu",
    ) -> None:
        self._inputs, self._outputs, self._tvm = list(inputs), list(outputs), load()
        try:
            module = self._tvm.runtime.load_module(str(library.resolve()))
            self._device = self._tvm.device(device, 0)
            machine = self._tvm.relax.VirtualMachine(module, self._device)
        except Exception as error:
            raise BackendError(
                f"TVM cannot load {library.name}: {first_line(error)}",
                fix="compile the model again with the TVM that is installed here",
            ) from error
        self._main = machine["main"]

    def get_inputs(self) -> list[PortEntry]:
        """The inputs of the model."""
        return self._inputs

    def get_outputs(self) -> list[PortEntry]:
        """The outputs of the model."""
        return self._outputs

    def run(
        self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """The outputs of these names, or all, for inputs by name.

        Raises:
            ModelError: An input is missing or does not fit; names the layer where one refused it.
        """
        wanted = [port.name for port in self._inputs]
        if set(feed) != set(wanted):
            raise ModelError(f"got the inputs {sorted(feed)}, the model wants {wanted}")
        tensors = [
            self._tvm.runtime.tensor(fitted(feed[p.name], p.name, p.dtype, p.dims), self._device)
            for p in self._inputs
        ]
        try:
            results = self._main(*tensors)
        except Exception as error:
            raise ModelError(first_line(error)) from error
        made = {
            port.name: result.numpy() for port, result in zip(self._outputs, results, strict=True)
        }
        return [made[name] for name in names or made]
