"""The forms in which ops of the domain are declared, once, each in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.defs import OpSchema

from sparsecc.formats.blocks import BlockWeight

Array = NDArray[np.floating]
Dim = int | str | None
Attributes = Mapping[str, int | list[int]]


@dataclass(frozen=True)
class OpType:
    """All that is known of one op type of the domain, whatever its kind.

    Attributes:
        doc: One line for the schema.
        inputs: Name → ONNX type, in order; all are required. ``"T"`` is float32.
        attributes: Name → kind; all are required.
        body: Standard ops from the inputs to ``Y``.
        check: Raises ValueError with what disagrees; names, inputs and attributes are as declared.
        infer: Shape of ``Y`` from that of the first input; a contradiction raises ValueError.
        least_opset: The oldest opset that the body is valid in.
        output: ONNX type of ``Y``.
    """

    doc: str
    inputs: Mapping[str, str]
    attributes: Mapping[str, OpSchema.AttrType]
    body: Callable[[], list[onnx.NodeProto]]
    check: Callable[[ir.Node], None]
    infer: Callable[[ir.Node, Sequence[Dim]], list[Dim]]
    least_opset: int
    output: str = "T"


@dataclass(frozen=True)
class LayerSpec:
    """A layer with a packed weight; its variants add a residual and an activation.

    Attributes:
        base: Op type of the plain variant.
        doc: One line for the schema.
        attributes: Name → number of integers (0 for a single integer); all are required.
        weight_rank: Length of the packed weight's ``shape``.
        infer: Output shape from the shape of X, the packed ``shape`` and the attributes.
            Unknown dimensions are None or symbolic; a contradiction raises ValueError.
        linear: Numpy meaning of the linear part: X, dense weight of ``shape``, bias, attributes.
        linear_body: Standard ops (opset ≥ 11) for the linear part, from ``X``, the named dense
            weight and ``bias`` to the named output.
    """

    base: str
    doc: str
    attributes: Mapping[str, int]
    weight_rank: int
    infer: Callable[[Sequence[Dim], Sequence[int], Attributes], list[Dim]]
    linear: Callable[[Array, Array, Array, Attributes], Array]
    linear_body: Callable[[str, str], list[onnx.NodeProto]]


@dataclass(frozen=True)
class Call:
    """The arguments of one evaluation of a layer in numpy."""

    x: Array
    weight: BlockWeight
    bias: Array
    attributes: Attributes
    residual: Array | None = None
