"""Normalizations, in their form for inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op


def _batch_norm(node: NodeView) -> Function:
    epsilon = node.get("epsilon", 1e-5)
    if node.get("training_mode", 0) or any(node.used_outputs[1:]):
        raise node.refuse("batch statistics of a training step")
    if not node.get("spatial", 1):
        raise node.refuse("statistics for each pixel (spatial=0)")
    node.ignore("momentum", "is_test", "consumed_inputs")

    def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)

    return batch_norm


def _instance_norm(node: NodeView) -> Function:
    epsilon = node.get("epsilon", 1e-5)
    node.ignore("consumed_inputs")
    return lambda x, scale, bias: functional.instance_norm(
        x, None, None, scale, bias, True, 0.0, epsilon
    )


def _group_norm(node: NodeView) -> Function:
    """Scale and bias are one for each group before opset 21, then one for each channel."""
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)
    node.ignore("stash_type")
    by_group = node.opset < 21

    def group_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if by_group:
            each = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return group_norm


def _layer_norm(node: NodeView) -> Function:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    node.ignore("stash_type")
    if any(node.used_outputs[1:]):
        return lambda x, scale, bias=None: _with_statistics(x, scale, bias, axis, epsilon)

    def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        sizes = x.shape[axis:]
        if scale.shape == sizes and (bias is None or bias.shape == sizes):
            return functional.layer_norm(x, sizes, scale, bias, epsilon)
        normal = functional.layer_norm(x, sizes, None, None, epsilon) * scale
        return normal if bias is None else normal + bias

    return layer_norm


def _with_statistics(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNormalization, the mean and the inverse of the deviation."""
    axes = tuple(range(axis % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = (x.var(axes, unbiased=False, keepdim=True) + epsilon).rsqrt()
    normal = (x - mean) * inverse * scale
    return normal if bias is None else normal + bias, mean, inverse


def _rms_norm(node: NodeView) -> Function:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    node.ignore("stash_type")

    def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
        sizes = x.shape[axis:]
        if scale.shape == sizes:
            return functional.rms_norm(x, sizes, scale, epsilon)
        return functional.rms_norm(x, sizes, None, epsilon) * scale

    return rms_norm


def _lp_norm(node: NodeView) -> Function:
    axis, p = node.get("axis", -1), node.get("p", 2)

    def lp_norm(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / norm)

    return lp_norm


def _mean_variance(node: NodeView) -> Function:
    axes = node.get("axes", [0, 2, 3])

    def normalize(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        deviation = centred.square().mean(axes, keepdim=True).sqrt()
        return centred / (deviation + 1e-9)

    return normalize


def _lrn(node: NodeView) -> Function:
    size, bias = node.get("size"), node.get("bias", 1.0)
    alpha, beta = node.get("alpha", 1e-4), node.get("beta", 0.75)

    def normalize(x: Tensor) -> Tensor:
        squares = x.square().flatten(2).transpose(1, 2)  # channels last, the windowed axis
        padded = functional.pad(squares, ((size - 1) // 2, size // 2))
        means = functional.avg_pool1d(padded, size, 1).transpose(1, 2).reshape(x.shape)
        return x / (bias + alpha * means) ** beta

    return normalize


OPS: dict[str, Op] = {
    "BatchNormalization": Op(_batch_norm, learned=(1, 2), fixed=(3, 4)),
    "GroupNormalization": Op(_group_norm, learned=(1, 2)),
    "InstanceNormalization": Op(_instance_norm, learned=(1, 2)),
    "LRN": Op(_lrn),
    "LayerNormalization": Op(_layer_norm, learned=(1, 2)),
    "LpNormalization": Op(_lp_norm),
    "MeanVarianceNormalization": Op(_mean_variance),
    "RMSNormalization": Op(_rms_norm, learned=(1,)),
}
