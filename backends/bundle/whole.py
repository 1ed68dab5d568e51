"""A whole model as one region: what a bundle is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sparsecc.backends.codegen.program import Program


@dataclass(frozen=True)
class Port:
    """An input or an output of a model.

    Attributes:
        name: The name it has in the model.
        dtype: numpy's name of its type: float32, int32, int64, uint8, int8, bool.
        dims: Its dimensions; open ones by name.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Extern:
    """A function that is not of the kernel library.

    Attributes:
        name: A C identifier, unique in the bundle; its ``sc_extern`` is ``sc_extern_<name>``.
        source: A C file that defines ``const sc_extern sc_extern_<name>``; it includes
            ``extern.h`` only.
    """

    name: str
    source: str


@dataclass(frozen=True)
class Whole:
    """A model as one region.

    Attributes:
        inputs: In the order of the program's inputs.
        outputs: In the order of the program's outputs.
        program: All its steps. A step of the kind ``extern`` has one attribute, the position of
            its function in ``externs``.
        constants: What each of ``program.constants`` is.
        externs: Functions that are not of the kernel library.
        objects: File name -> object file for the target's base instruction set, to link besides.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    program: Program
    constants: Mapping[str, NDArray[Any]]
    externs: tuple[Extern, ...] = ()
    objects: Mapping[str, bytes] = field(default_factory=dict)
