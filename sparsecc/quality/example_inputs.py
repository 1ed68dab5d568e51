"""Inputs for a model when the user gives none: seeded, and of shapes the model accepts.

The one place that knows what the inputs of a model are; measuring, verifying and calibrating all
ask here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import ModelError

_SIDE = 64  # of pictures and volumes: every usual stride divides it
_LENGTH = 16  # of sequences
_CHANNELS = 3
_IMAGE_RANK = 4
_MOST_ELEMENTS = 1 << 28
_ANONYMOUS = {"", "?", "None"}  # what exporters write for "any", so not one symbol but many


@dataclass(frozen=True)
class InputSpec:
    """What a model says about one of its inputs.

    Attributes:
        name: Name to feed.
        dtype: Element type.
        dims: One entry per axis: a size, the name of a symbol, or None for any size.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.name} {self.dtype.name}[{sizes}]"

    def fits(self, other: InputSpec) -> bool:
        """Whether a tensor for one can be a tensor for the other; a symbol is any size."""
        return (
            self.dtype == other.dtype
            and len(self.dims) == len(other.dims)
            and all(
                ours == theirs or not (isinstance(ours, int) and isinstance(theirs, int))
                for ours, theirs in zip(self.dims, other.dims, strict=True)
            )
        )


def input_specs(model: ir.Model | str | os.PathLike[str]) -> list[InputSpec]:
    """The inputs of a model, without the weights that old files list among them.

    Args:
        model: The model, or the path of its ONNX file; weights are not read.

    Raises:
        ModelError: The file is not a model, or an input is not a tensor of a numpy type and of
            known rank.
    """
    graph = (model if isinstance(model, ir.Model) else _load(Path(model))).graph
    return [_spec(value) for value in graph.inputs if value.name not in graph.initializers]


def example_inputs(
    model: ir.Model | str | os.PathLike[str],
    seed: int = 0,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Inputs that the model accepts, the same for the same seed.

    A dimension that the model leaves open is `batch` on the first axis, else a short sequence or
    a small picture, going by the rank; equal symbols get equal sizes. Floats are standard
    normal, integers 0 or 1 (valid indices of any table), booleans true, masks all ones.
    What a compiled model carries from call to call is in its manifest (``sparsecc.state``).

    Args:
        model: The model, or the path of its ONNX file.
        seed: Seed of the random values.
        batch: Size of an open first axis.
        shapes: Input name → sizes of the axes after the first, where they are open.

    Returns:
        Input name → array.

    Raises:
        ModelError: The file is not a model, or an input cannot be made up.
    """
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    specs = input_specs(model)
    _check_shapes(shapes or {}, specs)
    return {
        spec.name: _fill(
            spec, _shape(spec, sizes, (batch, *(shapes or {}).get(spec.name, ()))), rng
        )
        for spec in specs
    }


def _load(path: Path) -> ir.Model:
    try:
        model = ir.load(path)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror or error}", fix="check the path of the model"
        ) from error
    except Exception as error:  # protobuf and onnx_ir raise what they like on foreign bytes
        raise _not_a_model(path) from error
    if not model.graph.outputs:  # which is what an empty file reads as
        raise _not_a_model(path)
    return model


def _not_a_model(path: Path) -> ModelError:
    return ModelError(f"{path}: is not an ONNX model", fix="pass the path of a complete ONNX file")


def _spec(value: ir.Value) -> InputSpec:
    if not isinstance(value.type, ir.TensorType) or value.shape is None:
        raise ModelError(
            f"input {value.name!r} is not a tensor of known rank (type {value.type})",
            fix="export the model with plain tensor inputs",
        )
    try:
        dtype = value.type.dtype.numpy()
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"input {value.name!r} has type {value.type}, which numpy does not know",
            fix="export the model with inputs of a numeric type",
        ) from error
    return InputSpec(value.name or "", dtype, tuple(_dim(dim) for dim in value.shape))


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(dim, ir.SymbolicDim):
        return None if dim.value is None or dim.value in _ANONYMOUS else dim.value
    return dim if dim > 0 else None  # some exporters write 0 or -1 for "any"


def _check_shapes(shapes: Mapping[str, Sequence[int]], specs: Sequence[InputSpec]) -> None:
    """Raises ModelError for a shape of no input, or one that an input cannot have."""
    known = {spec.name: spec.dims[1:] for spec in specs}
    for name, shape in shapes.items():
        dims = known.get(name)
        if dims is None or len(dims) != len(shape):
            raise ModelError(
                f"no input {name!r} has {len(shape)} axes after the first",
                fix=f"the inputs are {', '.join(map(str, specs)) or 'none'}",
            )


def _shape(spec: InputSpec, sizes: dict[str, int], given: Sequence[int]) -> tuple[int, ...]:
    """Sizes of all axes; of those that are open the first ones are given."""
    shape = []
    for axis, dim in enumerate(spec.dims):
        chosen = given[axis] if axis < len(given) else _open_size(spec, axis)
        size = dim if isinstance(dim, int) else chosen
        shape.append(sizes.setdefault(dim, size) if isinstance(dim, str) else size)
    if math.prod(shape) > _MOST_ELEMENTS:
        raise ModelError(
            f"input {spec} has more elements than can be made up here", fix="give the inputs"
        )
    return tuple(shape)


def _open_size(spec: InputSpec, axis: int) -> int:
    if len(spec.dims) < _IMAGE_RANK:
        return _LENGTH
    nothing_known = not any(isinstance(dim, int) for dim in spec.dims[1:])
    return _CHANNELS if axis == 1 and nothing_known else _SIDE


def _fill(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    kind = spec.dtype.kind
    if kind == "b" or "mask" in spec.name.lower():
        return np.ones(shape, spec.dtype)
    if kind in "iu":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if kind in "fV":  # V: the narrow floats that numpy learns from ml_dtypes
        return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
    raise ModelError(f"input {spec} cannot be made up", fix="export the model with numeric inputs")


__all__ = ["InputSpec", "example_inputs", "input_specs"]
