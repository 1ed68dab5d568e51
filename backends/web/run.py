"""A model of WebAssembly in this process, through wasmtime: the face of an ONNX Runtime session."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.bundle.plan import PORT_RANK, PORT_TYPES
from sparsecc.backends.bundle.run import TYPE_NAMES, Port, fitted, refusal
from sparsecc.backends.bundle.weights import NAME as WEIGHTS_NAME
from sparsecc.errors import BackendError, ModelError

if TYPE_CHECKING:
    import wasmtime

Array = NDArray[Any]
Kind = TypeVar("Kind")

MODULE, RELAXED = "model.wasm", "model.relaxed.wasm"

# The structs of the C API as 32-bit WebAssembly lays them out: 64-bit numbers on multiples of 8.
PORT = struct.Struct("<Iii4x8q8I")
TENSOR = struct.Struct("<I4x8qii")
MESSAGE_BYTES = 1024
MOST_PORTS = 4096


@dataclass(frozen=True)
class Typed(Port):
    """An input or an output, and its type as numpy spells it."""

    dtype: np.dtype[Any]


class WebSession:
    """A model of a folder for browsers, run by wasmtime on one thread.

    Args:
        folder: Has ``weights.bin`` and the module.
        module: Which of the modules; not one of those for several threads.

    Raises:
        BackendError: wasmtime is missing, or refuses the module, or the module the weights.
    """

    def __init__(self, folder: Path, module: str = MODULE) -> None:
        try:
            import wasmtime
        except ImportError as error:
            raise BackendError(
                "wasmtime, which runs WebAssembly here, is not installed",
                fix="pip install 'sparsecc[wasm]'",
            ) from error
        self._wasm = wasmtime
        self._store = wasmtime.Store(wasmtime.Engine(_config()))
        try:
            code = wasmtime.Module.from_file(self._store.engine, str(folder / module))
            self._exports = wasmtime.Instance(self._store, code, []).exports(self._store)
        except wasmtime.WasmtimeError as error:
            raise BackendError(
                f"wasmtime {version('wasmtime')} cannot load {folder / module}: {error}",
                fix="compile the model again, or install a newer wasmtime",
            ) from error
        self._memory = self._export("memory", wasmtime.Memory)
        self._model = self._create(folder / WEIGHTS_NAME)
        self._inputs = self._ports("model_inputs")
        self._outputs = self._ports("model_outputs")
        self._structs = self._alloc((len(self._inputs) + len(self._outputs)) * TENSOR.size)

    def get_inputs(self) -> list[Typed]:
        """The inputs."""
        return self._inputs

    def get_outputs(self) -> list[Typed]:
        """The outputs."""
        return self._outputs

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names, or all, for inputs by name.

        Raises:
            ModelError: An input does not fit, or the model cannot run on it.
        """
        places: list[int] = []
        try:
            return self._run(names, feed, places)
        except self._wasm.Trap as error:
            raise ModelError(
                f"the module stopped: {error}", fix="report it: that is a bug"
            ) from error
        finally:
            for place in places:
                self._call("sc_web_free", place)

    def _run(
        self, names: Sequence[str] | None, feed: Mapping[str, Array], places: list[int]
    ) -> list[Array]:
        wanted = [meta.name for meta in self._inputs]
        if set(feed) != set(wanted):
            raise ModelError(f"got the inputs {sorted(feed)}, the model wants {wanted}")
        outs = self._structs + len(self._inputs) * TENSOR.size
        for at, meta in enumerate(self._inputs):
            array = fitted(feed[meta.name], meta.name, meta.dtype.name, meta.shape)
            places.append(self._alloc(array.nbytes))
            self._view(places[-1], array.nbytes)[:] = np.frombuffer(array.tobytes(), np.uint8)
            self._describe(self._structs + at * TENSOR.size, places[-1], array.shape, meta)
        self._check(self._call("model_plan", self._model, self._structs, outs))
        shapes = [self._dims(outs + at * TENSOR.size) for at in range(len(self._outputs))]
        for at, (meta, shape) in enumerate(zip(self._outputs, shapes, strict=True)):
            places.append(self._alloc(math.prod(shape) * meta.dtype.itemsize))
            self._describe(outs + at * TENSOR.size, places[-1], shape, meta)
        self._check(self._call("model_run", self._model, self._structs, outs))
        results = places[len(self._inputs) :]
        answers = {
            meta.name: self._array(place, meta, shape)
            for place, meta, shape in zip(results, self._outputs, shapes, strict=True)
        }
        return [answers[name] for name in (answers if names is None else names)]

    def _array(self, at: int, meta: Typed, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * meta.dtype.itemsize
        return np.frombuffer(bytes(self._view(at, size)), meta.dtype).reshape(shape)

    def _create(self, weights: Path) -> int:
        size = weights.stat().st_size
        place, room = self._alloc(size), self._alloc(MESSAGE_BYTES + 8)
        with weights.open("rb") as stream:
            if stream.readinto(self._view(place, size).data) != size:
                raise BackendError(f"{weights} ended early", fix="compile the model again")
        text, host = room + 8, self._call("sc_web_host")
        if self._call("model_create", place, size, host, room, text, MESSAGE_BYTES):
            raise refusal(self._said(text), BackendError)
        (model,) = struct.unpack("<I", bytes(self._view(room, 4)))
        self._call("sc_web_free", room)
        return int(model)

    def _ports(self, export: str) -> list[Typed]:
        out = self._alloc(4)
        count = self._call(export, out)
        (table,) = struct.unpack("<I", bytes(self._view(out, 4)))
        self._call("sc_web_free", out)
        return [self._port(table + at * PORT.size) for at in range(min(count, MOST_PORTS))]

    def _port(self, at: int) -> Typed:
        name, kind, rank, *rest = PORT.unpack(bytes(self._view(at, PORT.size)))
        dims, texts = rest[:rank], rest[PORT_RANK : PORT_RANK + rank]
        shape = [
            self._text(text) if dim < 0 else dim for dim, text in zip(dims, texts, strict=True)
        ]
        dtype = PORT_TYPES[kind]
        return Typed(self._text(name), shape, f"tensor({TYPE_NAMES[dtype]})", np.dtype(dtype))

    def _alloc(self, size: int) -> int:
        place = self._call("sc_web_alloc", size)
        if not place:
            raise BackendError(
                f"a module of WebAssembly has no room for {size} bytes more",
                fix="take smaller inputs or a smaller model: 4 GB are all it can have",
            )
        return place

    def _call(self, export: str, *arguments: int) -> int:
        result = self._export(export, self._wasm.Func)(self._store, *arguments)
        return 0 if result is None else int(result) & 0xFFFFFFFF

    def _export(self, name: str, kind: type[Kind]) -> Kind:
        found = self._exports.get(name)
        if not isinstance(found, kind):
            raise BackendError(f"the module has no {name}", fix="compile the model again")
        return found

    def _check(self, failed: int) -> None:
        if failed:
            raise refusal(self._said(self._call("model_error", self._model)), ModelError)

    def _view(self, at: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the module's memory, where they are: until it grows.

        Raises:
            BackendError: They are not all inside, so the module is not one of ours.
        """
        if at + size > self._memory.data_len(self._store):
            raise BackendError("the module points outside its memory", fix="compile it again")
        if not size:
            return np.empty(0, np.uint8)
        return np.ctypeslib.as_array(
            (ctypes.c_uint8 * size).from_address(
                ctypes.addressof(self._memory.data_ptr(self._store).contents) + at
            )
        )

    def _said(self, at: int) -> bytes:
        size = min(MESSAGE_BYTES, self._memory.data_len(self._store) - at)
        return bytes(self._view(at, size)).partition(b"\0")[0]

    def _text(self, at: int) -> str:
        return self._said(at).decode(errors="replace")

    def _describe(self, at: int, place: int, shape: Sequence[int], meta: Typed) -> None:
        dims = [*shape, *([0] * (PORT_RANK - len(shape)))]
        packed = TENSOR.pack(place, *dims, len(shape), PORT_TYPES.index(meta.dtype.name))
        self._view(at, TENSOR.size)[:] = np.frombuffer(packed, np.uint8)

    def _dims(self, at: int) -> tuple[int, ...]:
        _, *dims, rank, _ = TENSOR.unpack(bytes(self._view(at, TENSOR.size)))
        return tuple(dims[:rank])


def _config() -> wasmtime.Config:
    """Relaxed instructions do what the processor does, as in a browser."""
    import wasmtime

    config = wasmtime.Config()
    config.wasm_relaxed_simd = True
    return config
