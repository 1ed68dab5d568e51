"""Fold BatchNormalization into the convolution or linear layer before it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, is_op, new_initializer, nodes_of, replace, sole_consumer

Array = NDArray[np.float64]

_FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class _Affine:
    """What a BatchNormalization does to channel c: y = x · scale[c] + shift[c]."""

    scale: Array
    shift: Array


class BatchNormFolding(Pass):
    """y = BN(layer(x)) becomes one layer with scaled weights and a bias.

    A weight that other nodes share is not changed: the layer gets a scaled copy. The
    arithmetic is in float64, rounded once to the weight's type.
    """

    name = "batch-norm-folding"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Fold every BatchNormalization that follows a foldable layer."""
        modified = False
        for norm in nodes_of(model, "BatchNormalization"):
            producer = norm.inputs[0].producer() if norm.inputs[0] is not None else None
            if not is_op(producer, *_FOLDABLE, "Add"):
                continue
            reason = _fold(norm)
            if reason is None:
                modified = True
            else:
                ctx.refuse(self.name, norm, reason)
        return modified


def _fold(norm: ir.Node) -> str | None:
    """Fold one node; returns why not if it stays."""
    match = _layer_before(norm)
    if isinstance(match, str):
        return match
    layer, addition = match
    affine = _affine_of(norm)
    if isinstance(affine, str):
        return affine
    weight = constant(layer.inputs[1])
    if weight is None:
        return "the weight of the layer before is not constant"
    bias = _bias_of(layer, addition, len(affine.scale))
    if isinstance(bias, str):
        return bias
    channels = _channel_count(layer, weight.shape)
    if channels != len(affine.scale):
        return f"it normalises {len(affine.scale)} channels, the layer before has {channels}"
    scaled = _scaled(layer, weight.astype(np.float64), affine.scale).astype(weight.dtype)
    new_bias = (bias * affine.scale + affine.shift).astype(weight.dtype)
    if not (np.isfinite(scaled).all() and np.isfinite(new_bias).all()):
        return f"the folded weights are not finite in {weight.dtype}"
    _rebuild(norm, layer, addition, scaled, new_bias)
    return None


def _layer_before(norm: ir.Node) -> tuple[ir.Node, ir.Node | None] | str:
    """The layer and, for MatMul, the Add of its bias; or why there is none to fold into."""
    if norm.attributes.get_int("training_mode", 0) or any(o.uses() for o in norm.outputs[1:]):
        return "it is in training mode"
    before = norm.inputs[0]
    assert before is not None
    if sole_consumer(before) is None:
        return "the layer before has other readers"
    layer = before.producer()
    assert layer is not None
    addition = None
    if is_op(layer, "Add"):
        addition = layer
        product = next((v for v in addition.inputs if v and is_op(v.producer(), "MatMul")), None)
        if product is None:
            return "the layer before is an addition, not a linear layer with a bias"
        if sole_consumer(product) is None:
            return "the layer before has other readers"
        layer = product.producer()
        assert layer is not None
    rank = None if before.shape is None else len(before.shape)
    if layer.op_type == "MatMul" and rank != 2:
        return "the channels are not the last of two dimensions"
    return layer, addition


def _affine_of(norm: ir.Node) -> _Affine | str:
    parts = [constant(value) for value in norm.inputs[1:5]]
    if len(parts) != 4 or any(part is None for part in parts):
        return "its scale, bias, mean and variance are not all constant"
    scale, bias, mean, variance = (np.asarray(part, np.float64) for part in parts)
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return _Affine(factor, bias - mean * factor)


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


def _channel_count(layer: ir.Node, shape: tuple[int, ...]) -> int:
    if layer.op_type == "Conv":
        return shape[0]
    if layer.op_type == "ConvTranspose":
        return shape[1] * layer.attributes.get_int("group", 1)
    transposed = layer.op_type == "Gemm" and layer.attributes.get_int("transB", 0)
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
    transposed = layer.op_type == "Gemm" and layer.attributes.get_int("transB", 0)
    return weight * (scale[:, None] if transposed else scale)


def _rebuild(
    norm: ir.Node,
    layer: ir.Node,
    addition: ir.Node | None,
    weight: NDArray[np.generic],
    bias: NDArray[np.generic],
) -> None:
    """Replace layer (+ Add) + BatchNormalization, keeping the layer's name."""
    x = layer.inputs[0]
    old = [layer, *([addition] if addition is not None else []), norm]
    new_weight = new_initializer(layer, f"{layer.name}.weight_folded", weight)
    new_bias = new_initializer(layer, f"{layer.name}.bias_folded", bias)
    attributes = dict(layer.attributes)
    if layer.op_type == "MatMul":
        product = ir.Node("", "MatMul", [x, new_weight], name=layer.name)
        shifted = ir.Node("", "Add", [product.outputs[0], new_bias], name=norm.name)
        product.outputs[0].type, product.outputs[0].shape = (
            norm.outputs[0].type,
            norm.outputs[0].shape,
        )
        product.outputs[0].name = f"{layer.outputs[0].name}_folded"
        replace(old, [product, shifted], at=norm)
        return
    if layer.op_type == "Gemm":
        attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    folded = ir.Node(
        "", layer.op_type, [x, new_weight, new_bias], attributes.values(), name=layer.name
    )
    replace(old, [folded], at=norm)
