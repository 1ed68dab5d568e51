"""How an op is declared: what its builder sees of a node, and one row of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecc.errors import UnsupportedOpError

Function = Callable[..., Any]
"""Tensors of a node's inputs (None where absent) → the tensor of its output, or a tuple of them."""

Body = Callable[..., tuple[Tensor, ...]]
"""A graph inside a node: its own inputs, then what it reads of the graphs around → its outputs."""

FIX = (
    "rewrite the model without this op or attribute, or use what does not train: "
    "compile() without recovery does not interpret the model"
)


@dataclasses.dataclass
class NodeView:
    """What the builder of an op sees of one node; it is asked once, before anything runs.

    Attributes:
        node: The node.
        opset: Version of the op's domain in the model.
        inputs: For every input: whether it is there, and its array if it is a constant that is
            no parameter.
        device: Where the node makes new tensors.
        bodies: Attribute name → graph inside the node.
    """

    node: ir.Node
    opset: int
    inputs: Sequence[tuple[bool, NDArray[Any] | None]]
    device: torch.device
    bodies: dict[str, Body] = dataclasses.field(default_factory=dict)
    read: set[str] = dataclasses.field(default_factory=set)

    def has(self, position: int) -> bool:
        """Whether the input is given."""
        return position < len(self.inputs) and self.inputs[position][0]

    def constant(self, position: int) -> NDArray[Any] | None:
        """The array of an input that is a constant, else None."""
        return self.inputs[position][1] if position < len(self.inputs) else None

    def numbers(self, position: int) -> list[Any] | None:
        """The elements of a constant input, in order, else None."""
        array = self.constant(position)
        return None if array is None else array.reshape(-1).tolist()

    @property
    def used_outputs(self) -> list[bool]:
        """For every output, whether it has a name."""
        return [bool(value.name) for value in self.node.outputs]

    def wants(self, position: int) -> bool:
        """Whether an output is asked for."""
        return position < len(self.node.outputs) and self.used_outputs[position]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: int, float, str, list or tensor."""
        self.read.add(name)
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, (tuple, list)) else value

    def ignore(self, *names: str) -> None:
        """Say that these attributes do not change what is computed."""
        self.read.update(names)

    def refuse(self, reason: str) -> UnsupportedOpError:
        """The error of a node that cannot be interpreted."""
        domain = f"{self.node.domain}." if self.node.domain else ""
        return UnsupportedOpError(
            f"the torch interpreter cannot run {domain}{self.node.op_type} "
            f"(opset {self.opset}): {reason}",
            node=self.node.name or None,
            fix=FIX,
        )

    def check_attributes(self) -> None:
        """Raise for an attribute that nobody asked for."""
        unread = sorted(set(self.node.attributes) - self.read)
        if unread:
            raise self.refuse(f"attribute {unread[0]!r} is not supported")


Builder = Callable[[NodeView], Function]


@dataclasses.dataclass(frozen=True)
class Op:
    """One op type.

    Attributes:
        build: Makes the function of a node.
        host: Inputs that are read as numbers (sizes, axes): kept off the accelerator if possible.
        makes_host: Whether the outputs are numbers known without looking at any element.
        static: Whether equal inputs give equal outputs (random ops do not).
        learned: Inputs that are weights even where they have a single element.
        fixed: Inputs that are never trained although they are floating point.
    """

    build: Builder
    host: tuple[int, ...] = ()
    makes_host: bool = False
    static: bool = True
    learned: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()


def plain(function: Function) -> Builder:
    """A builder for an op without attributes: the function itself."""
    return lambda node: function


def as_list(numbers: Tensor | None) -> list[Any]:
    """The elements of a tensor of sizes, axes or scales."""
    return [] if numbers is None else numbers.reshape(-1).tolist()


_DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}


def dtype_of(code: int | ir.DataType) -> torch.dtype | None:
    """The torch type of an ONNX element type, or None where torch cannot compute with it."""
    return _DTYPES.get(ir.DataType(code))


def to_torch(array: NDArray[Any], dtype: ir.DataType) -> Tensor | None:
    """A tensor of its own with the elements of an array, or None if torch has no such type."""
    wanted = dtype_of(dtype)
    if wanted is None:
        return None
    array = np.array(array, order="C")  # a copy, without strides and endianness of its own
    if wanted == torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor, dtype: ir.DataType) -> NDArray[Any]:
    """The elements of a tensor as an array of an ONNX element type."""
    tensor = tensor.detach().to("cpu", dtype_of(dtype)).contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.view(torch.int16).numpy()
        return bits.view(dtype.numpy()).copy()
    array: NDArray[Any] = tensor.numpy()
    return array.copy()
