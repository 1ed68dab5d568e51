"""Fold "times scale plus shift, per channel" into the layer before it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant, new_initializer, replace

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Affine:
    """y = x · scale[c] + shift[c] for channel c, in float64."""

    scale: Array
    shift: Array


def fold(
    affine: Affine, layer: ir.Node, last: ir.Node, addition: ir.Node | None = None
) -> str | None:
    """Make `layer` compute what `last` computes from its output.

    A weight that other nodes share is not changed: the layer gets a scaled copy. The arithmetic
    is in float64, rounded once to the weight's type.

    Args:
        affine: What `last` does to the channels.
        layer: Conv, ConvTranspose, Gemm or MatMul, read by nothing but `addition` or `last`.
        last: The node to fold.
        addition: The Add of the bias between a MatMul and `last`.

    Returns:
        None, or why nothing was changed.
    """
    weight = constant(layer.inputs[1])
    if weight is None:
        return "the weight of the layer before is not constant"
    channels = channel_count(layer, weight.shape)
    if channels != len(affine.scale):
        return f"it has {len(affine.scale)} channels, the layer before has {channels}"
    bias = _bias_of(layer, addition, channels)
    if isinstance(bias, str):
        return bias
    scaled = None
    if np.any(affine.scale != 1):
        scaled = _scaled(layer, weight.astype(np.float64), affine.scale).astype(weight.dtype)
    new_bias = (bias * affine.scale + affine.shift).astype(weight.dtype)
    if not np.isfinite(new_bias).all() or (scaled is not None and not np.isfinite(scaled).all()):
        return f"the folded weights are not finite in {weight.dtype}"
    _rebuild(last, layer, addition, scaled, new_bias)
    return None


def _bias_of(layer: ir.Node, addition: ir.Node | None, channels: int) -> Array | str:
    """Bias of the layer over its channels; zeros without one."""
    if addition is not None:
        value = next((v for v in addition.inputs if v and v.producer() is not layer), None)
    else:
        value = layer.inputs[2] if len(layer.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    array = constant(value)
    if array is None or array.size not in (1, channels) or array.shape[-1:] == (1,) != (channels,):
        return "the bias of the layer before is not one constant per channel"
    factor = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,)) * factor


def channel_count(layer: ir.Node, shape: tuple[int, ...]) -> int:
    """Number of outputs of a layer whose weight has this shape."""
    if layer.op_type == "Conv":
        return shape[0]
    if layer.op_type == "ConvTranspose":
        return shape[1] * layer.attributes.get_int("group", 1)
    transposed = layer.op_type == "Gemm" and bool(layer.attributes.get_int("transB", 0))
    return shape[0] if transposed else shape[-1]


def _scaled(layer: ir.Node, weight: Array, scale: Array) -> Array:
    """The weight with every output channel scaled."""
    if layer.op_type == "Conv":
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    if layer.op_type == "ConvTranspose":
        # [C_in, C_out / groups, k…]: the inputs of group g make the outputs of group g.
        groups = layer.attributes.get_int("group", 1)
        by_group = weight.reshape(groups, -1, *weight.shape[1:])
        per_group = scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
        return (by_group * per_group).reshape(weight.shape)
    transposed = layer.op_type == "Gemm" and bool(layer.attributes.get_int("transB", 0))
    return weight * (scale[:, None] if transposed else scale)


def _rebuild(
    last: ir.Node,
    layer: ir.Node,
    addition: ir.Node | None,
    weight: NDArray[Any] | None,
    bias: NDArray[Any],
) -> None:
    """Replace layer (+ Add) + `last`, keeping the layer's name; weight None keeps the weight."""
    x, new_weight = layer.inputs[:2]
    old = [layer, *([addition] if addition is not None else []), last]
    if weight is not None:
        new_weight = new_initializer(layer, f"{layer.name}.weight_folded", weight)
    new_bias = new_initializer(layer, f"{layer.name}.bias_folded", bias)
    attributes = dict(layer.attributes)
    if layer.op_type == "MatMul":
        product = ir.Node("", "MatMul", [x, new_weight], name=layer.name)
        value = product.outputs[0]
        value.type, value.shape = last.outputs[0].type, last.outputs[0].shape
        value.name = f"{layer.outputs[0].name}_folded"
        shifted = ir.Node("", "Add", [value, new_bias], name=last.name)
        replace(old, [product, shifted], at=last)
        return
    if layer.op_type == "Gemm":
        attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    folded = ir.Node(
        "", layer.op_type, [x, new_weight, new_bias], attributes.values(), name=layer.name
    )
    replace(old, [folded], at=last)
