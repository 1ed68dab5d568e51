"""The form in which an op of the domain is declared, once, in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsecc.formats.blocks import BlockWeight

Array = NDArray[np.floating]
Dim = int | str | None
Attributes = Mapping[str, int | list[int]]


@dataclass(frozen=True)
class OpSpec:
    """A base op of the domain; its variants add a residual and an activation.

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
    """The arguments of one evaluation of an op in numpy."""

    x: Array
    weight: BlockWeight
    bias: Array
    attributes: Attributes
    residual: Array | None = None
