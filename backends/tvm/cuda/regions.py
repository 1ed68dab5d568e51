"""Parts of a model that kernels of ours compute on a GPU, each a function that starts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.tvm.load import load
from sparsecc.errors import BackendError
from sparsecc.passes.fuse.shapes import Shapes

DTYPE = "float16"
"""Of what kernels read and write in a float32 model: eleven bits of a number, up to 65504."""
Spec = tuple[str, tuple[int, ...]]
"""Element type, as torch names it, and shape of a tensor."""


@dataclass(frozen=True)
class Region:
    """What computes one node.

    Attributes:
        name: Of the function.
        kernel: What does the work, for reports.
        recipe: Its launches.
        inputs: Tensors they read, by name, in the order of the node's operands.
        outputs: Tensors they write, by name: the result first.
        arrays: Constants they read, by name.
    """

    name: str
    kernel: str
    recipe: Recipe
    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def written(self) -> dict[str, Spec]:
        """All that the launches write: outputs, then what only they use."""
        return dict(self.outputs) | dict(self.recipe.scratch)

    @property
    def tensors(self) -> dict[str, Spec]:
        """All tensors by name, in the order of the function's parameters."""
        constants = {name: (each.dtype.name, each.shape) for name, each in self.arrays.items()}
        return {**self.inputs, **constants, **self.written}

    def write(self, builder: Any, function: Any, operands: list[Any], result: Spec) -> Any:
        """The region as expressions of Relax.

        Args:
            builder: Of the function it is a part of.
            function: What starts its kernels.
            operands: What it reads; they are brought to the form of its inputs.
            result: What the model has in its place.
        """
        relax = load().relax
        specs = list(self.inputs.values())
        given = [_as(builder, each, spec) for each, spec in zip(operands, specs, strict=True)]
        given += [relax.const(each, each.dtype.name) for each in self.arrays.values()]
        kinds = [relax.TensorType(shape, dtype) for dtype, shape in self.written.values()]
        made = builder.emit(relax.call_tir(function, given, kinds))
        first = made if len(kinds) == 1 else builder.emit(relax.TupleGetItem(made, 0))
        return _as(builder, first, result)


def _as(builder: Any, tensor: Any, spec: Spec) -> Any:
    """A tensor of another element type, or of another shape of as many elements."""
    op, (dtype, shape) = load().relax.op, spec
    if tuple(int(dim) for dim in tensor.ty.shape) != shape:
        tensor = builder.emit(op.reshape(tensor, shape))
    return tensor if str(tensor.ty.dtype) == dtype else builder.emit(op.astype(tensor, dtype))


def fixed_sizes(value: ir.Value | None, shapes: Shapes) -> tuple[int, ...]:
    """The shape of a value.

    Raises:
        BackendError: A size of it is open.
    """
    terms = None if value is None else shapes.terms(value)
    if terms is None or not all(isinstance(each, int) for each in terms):
        raise BackendError("its sizes are open", fix="export the model with fixed sizes")
    return tuple(each for each in terms if isinstance(each, int))
