"""Sessions over bundles that this machine can run: the shared library, through ctypes."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.bundle.plan import PORT_RANK, PORT_TYPES
from sparsecc.backends.bundle.weights import ALIGN
from sparsecc.backends.bundle.weights import NAME as WEIGHTS_NAME
from sparsecc.errors import ArtifactError, BackendError, ModelError, SparseccError

TYPE_NAMES = {
    "float32": "float",
    **{name: name for name in PORT_TYPES if name != "float32"},
}
"""Of element types, what ONNX Runtime calls them."""
_ROOM = 1024
_LIBRARIES = ("lib*.so", "lib*.dylib", "*.dll")
_FIX = "; fix: "

Alloc = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_uint64)
Free = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)


class CPort(ctypes.Structure):
    """``NAME_port`` of the C API."""

    _fields_ = (
        ("name", c_char_p),
        ("type", c_int32),
        ("rank", c_int32),
        ("dims", c_int64 * PORT_RANK),
        ("dim_names", c_char_p * PORT_RANK),
    )


class CTensor(ctypes.Structure):
    """``NAME_tensor``."""

    _fields_ = (
        ("data", c_void_p),
        ("dims", c_int64 * PORT_RANK),
        ("rank", c_int32),
        ("type", c_int32),
    )


class CHost(ctypes.Structure):
    """``NAME_host``."""

    _fields_ = (("alloc", Alloc), ("free", Free), ("parallel", c_void_p), ("self", c_void_p))


@dataclass(frozen=True)
class Port:
    """An input or output, as ONNX Runtime describes it.

    Attributes:
        name: Its name.
        shape: Its dimensions, open ones by name.
        type: Such as ``tensor(float)``.
    """

    name: str
    shape: list[int | str]
    type: str


class Memory:
    """The host of a model: arrays by address, so that nothing but numpy is needed."""

    def __init__(self) -> None:
        self.held: dict[int, NDArray[np.uint8]] = {}
        self.host = CHost(Alloc(self._alloc), Free(self._free), None, None)

    def _alloc(self, _: int, size: int) -> int | None:
        try:
            block = np.empty(size + ALIGN, np.uint8)
        except MemoryError:
            return None
        address = block.ctypes.data + -block.ctypes.data % ALIGN
        self.held[address] = block
        return int(address)

    def _free(self, _: int, address: int) -> None:
        del self.held[address]


class Session:
    """A loaded bundle, used as an ``onnxruntime.InferenceSession``. One thread at a time.

    Raises:
        ArtifactError: A file is missing, or the library or the weights are not whole.
        BackendError: The library does not load here, or refuses the weights.
    """

    def __init__(self, library: Path, weights: Path) -> None:
        self._name = library.stem.removeprefix("lib")
        self._library = _load(library)
        self._memory = Memory()
        self._model: c_void_p | None = None
        self._inputs, self._outputs = self._ports("inputs"), self._ports("outputs")
        self._weights = _mapped(weights)
        self._model = self._create()

    def _call(self, what: str) -> Any:
        try:
            return self._library[f"{self._name}_{what}"]
        except AttributeError as error:
            raise ArtifactError(
                f"the library has no function {self._name}_{what}",
                fix="keep the file name of the library, or build the bundle again",
            ) from error

    def _ports(self, side: str) -> list[Port]:
        call, ports = self._call(side), POINTER(CPort)()
        count = call(ctypes.byref(ports))
        return [_described(ports[at]) for at in range(count)]

    def _create(self) -> c_void_p:
        create, model = self._call("create"), c_void_p()
        message = ctypes.create_string_buffer(_ROOM)
        create.argtypes = (c_void_p, c_uint64, c_void_p, c_void_p, c_char_p, c_uint64)
        host = ctypes.byref(self._memory.host)
        weights = (self._weights.ctypes.data, self._weights.nbytes)
        if create(*weights, host, ctypes.byref(model), message, _ROOM):
            raise refusal(message.value, BackendError)
        return model

    def get_inputs(self) -> list[Port]:
        """The inputs of the model."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """The outputs of the model."""
        return self._outputs

    def run(
        self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Run the model once.

        Args:
            names: Outputs to return; None for all.
            feed: An array for every input, of its type.

        Raises:
            BackendError: An input is missing or of another type or shape, a name is unknown, or
                there is no memory.
        """
        arrays = [_fed(feed, port.name) for port in self._inputs]
        self._check_names(names, feed)
        inputs = (CTensor * len(arrays))(*map(_tensor, arrays))
        outputs = (CTensor * len(self._outputs))()
        self._checked("plan", inputs, outputs)
        made = [np.empty(each.dims[: each.rank], PORT_TYPES[each.type]) for each in outputs]
        for each, array in zip(outputs, made, strict=True):
            each.data = array.ctypes.data
        self._checked("run", inputs, outputs)
        by_name = dict(zip((port.name for port in self._outputs), made, strict=True))
        return made if names is None else [by_name[name] for name in names]

    def _checked(self, what: str, inputs: Any, outputs: Any) -> None:
        if self._call(what)(self._model, inputs, outputs):
            said = self._call("error")
            said.restype = c_char_p
            raise refusal(said(self._model), BackendError)

    def _check_names(self, names: Sequence[str] | None, feed: Mapping[str, Any]) -> None:
        for side, ports, given in (
            ("input", self._inputs, feed),
            ("output", self._outputs, names or ()),
        ):
            known = [port.name for port in ports]
            for name in given:
                if name not in known:
                    raise BackendError(
                        f"the model has no {side} {name!r}", fix=f"it has {', '.join(known)}"
                    )

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            destroy = self._call("destroy")
            destroy.restype = None
            destroy(self._model)
            self._model = None


def open_bundle(folder: Path) -> Session:
    """A session over the bundle in a folder.

    Raises:
        ArtifactError: A file is missing, or the library or the weights are not whole.
        BackendError: The library does not load here, or refuses the weights.
    """
    found = [path for pattern in _LIBRARIES for path in sorted(folder.glob(pattern))]
    if len(found) != 1:
        raise ArtifactError(
            f"{folder} has {len(found)} libraries, a bundle has one",
            fix="give the folder that `sparsecc compile` wrote, with nothing added",
        )
    return Session(found[0], folder / WEIGHTS_NAME)


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library.resolve()))
    except OSError as error:
        raise BackendError(
            f"the library {library.name} does not load: {error}",
            fix="run it on a machine of the target, or compile with target='native'",
        ) from error


def _mapped(weights: Path) -> NDArray[np.uint8]:
    """The bytes of a file, read only when they are needed."""
    try:
        with weights.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read the weights {weights}: {error}",
            fix="keep the weights file beside the library",
        ) from error


def _described(port: CPort) -> Port:
    names = [port.dim_names[at] for at in range(port.rank)]
    shape = [
        name.decode() if dim < 0 else dim
        for name, dim in zip(names, port.dims[: port.rank], strict=True)
    ]
    return Port(port.name.decode(), shape, f"tensor({TYPE_NAMES[PORT_TYPES[port.type]]})")


def _fed(feed: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """A fed array as the model reads it."""
    if name not in feed:
        raise BackendError(f"input {name!r} is missing", fix="feed every input of the model")
    array = np.ascontiguousarray(feed[name])
    if array.dtype.name not in PORT_TYPES or array.ndim > PORT_RANK:
        raise BackendError(
            f"input {name!r} is {array.dtype} of {array.ndim} dimensions",
            fix=f"feed {', '.join(PORT_TYPES)} of at most {PORT_RANK} dimensions",
        )
    return array


def _tensor(array: NDArray[Any]) -> CTensor:
    dims = (c_int64 * PORT_RANK)(*array.shape)
    return CTensor(array.ctypes.data, dims, array.ndim, PORT_TYPES.index(array.dtype.name))


def fitted(given: NDArray[Any], name: str, dtype: str, dims: Sequence[int | str]) -> NDArray[Any]:
    """An input as an engine that checks nothing itself reads it.

    Raises:
        ModelError: Its type or its shape is another than the model's.
    """
    array = np.asarray(given)
    fits = array.ndim == len(dims) and all(
        isinstance(wanted, str) or wanted == got
        for wanted, got in zip(dims, array.shape, strict=True)
    )
    if array.dtype.name != dtype or not fits:
        raise ModelError(
            f"input {name!r} is {array.dtype} {list(array.shape)}, the model takes "
            f"{dtype} {list(dims)}",
            fix="give each input the type and the shape that the model has for it",
        )
    return np.ascontiguousarray(array)


def refusal(said: bytes, kind: type[SparseccError]) -> SparseccError:
    """The error that a sentence of the C API is."""
    message, _, fix = said.decode(errors="replace").partition(_FIX)
    return kind(message, fix=fix or None)
