"""Puts the factors of a weight in the place of its layer, in standard ops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.cost.roofline import Work
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.base import Emitter, Fit, Matrix
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.tape import Tape
from sparsecc.passes.weights.choose import work_of
from sparsecc.passes.weights.layers import Layer, matrix

_KEY = "sparsecc.structured"
SPARSE = "sparse"
"""Name of the part of a weight that is sparse beside one of low rank."""


@dataclass(frozen=True)
class Mark:
    """What a node that stands for a part of a layer remembers of it.

    Attributes:
        layer: Name of the layer.
        op: Its op type.
        structure: Its factors.
        work: What it was, dense.
        macs: Multiply-adds for one sample, where known.
        sparse: Name of the node of its sparse part, or "".
    """

    layer: str
    op: str
    structure: Structure
    work: Work
    macs: int | None
    sparse: str


def misfit(layer: Layer, structure: Structure, *, with_sparse: bool = False) -> str:
    """Why a layer cannot be rewritten so, or ""."""
    value, stored = layer.input, layer.node.inputs[1]
    if layer.groups > 1:
        return "groups"
    if with_sparse and structure.form != "rank":
        return f"{structure.form} with a sparse part: only low rank has one"
    if layer.op == "Conv" and structure.form != "rank":
        return f"a convolution as {FORMS[structure.form].what}: only low rank is done"
    if layer.op == "Gemm" and any(
        layer.node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")
    ):
        return "Gemm with alpha or beta other than 1"
    if stored is None or stored.dtype not in (None, ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return "weights are neither float32 nor float64"
    if value.shape is None or len(value.shape) < 2:
        return "rank of the input is not known"
    return FORMS[structure.form].misfit(structure, (layer.rows, layer.cols))


def replace_layer(layer: Layer, fit: Fit, sparse: Matrix | None = None) -> None:
    """Put factors in the place of a layer's node; its name and output are kept.

    Args:
        layer: One that ``misfit`` has nothing against.
        fit: Its factors.
        sparse: ``[R, K]`` to add to them, or None.
    """
    node, work = layer.node, work_of(layer)
    dtype = matrix(layer).dtype
    tape = Tape(node)
    add = _conv if layer.op == "Conv" else _product
    part = add(layer, tape, fit, sparse, dtype)
    made = tape.finish()
    mark = Mark(
        layer.name,
        layer.op,
        fit.structure,
        work,
        layer.macs,
        sparse=str(part.name) if part is not None else "",
    )
    for each in made:
        each.meta[_KEY] = mark


def marks(graph: ir.Graph) -> dict[str, Mark]:
    """Node name → what it stands for a part of, for all nodes of rewritten layers."""
    return {str(node.name): node.meta[_KEY] for node in graph.all_nodes() if _KEY in node.meta}


def is_part(node: ir.Node) -> bool:
    """Whether a node stands for a part of a layer."""
    return _KEY in node.meta


def _product(
    layer: Layer, tape: Tape, fit: Fit, sparse: Matrix | None, dtype: np.dtype[np.floating]
) -> ir.Node | None:
    node, shape = layer.node, (layer.rows, layer.cols)
    to = Emitter(tape, layer.input, dtype)
    y = FORMS[fit.structure.form].emit(to, fit.factors, fit.structure, shape)
    part = None
    if sparse is not None:
        beside = tape.op("MatMul", layer.input, to.factor(sparse.T, SPARSE))
        part = _shaped_like(beside, node)
        y = tape.op("Add", y, beside)
    bias = node.inputs[2] if layer.op == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        tape.op("Add", y, bias)
    return part


def _conv(
    layer: Layer, tape: Tape, fit: Fit, sparse: Matrix | None, dtype: np.dtype[np.floating]
) -> ir.Node | None:
    """A convolution with r outputs, then one of a pixel; its bias stays with the last."""
    node, (u, v) = layer.node, fit.factors
    to = Emitter(tape, layer.input, dtype)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    window = {
        name: value.value for name, value in node.attributes.items() if name != "kernel_shape"
    }
    inner = tape.op("Conv", layer.input, to.factor(_oihw(v, layer), "v"), **window)
    second = [inner, to.factor(u[:, :, None, None], "u")]
    if sparse is None:
        tape.op("Conv", *second, *([bias] if bias is not None else []))
        return None
    y = tape.op("Conv", *second)
    weight = to.factor(_oihw(sparse, layer), SPARSE)
    biased = [bias] if bias is not None else []
    beside = tape.op("Conv", layer.input, weight, *biased, **window)
    tape.op("Add", y, beside)
    return _shaped_like(beside, node)


def _oihw(weight: Matrix, layer: Layer) -> Matrix:
    """``[rows, K]`` of a convolution as its stored weight."""
    return weight.reshape(len(weight), *layer.kernel, -1).transpose(0, 3, 1, 2)


def _shaped_like(value: ir.Value, node: ir.Node) -> ir.Node | None:
    """The producer of a value, which gets the type and shape of a node's output."""
    value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
    return value.producer()


__all__ = ["SPARSE", "Mark", "is_part", "marks", "misfit", "replace_layer"]
