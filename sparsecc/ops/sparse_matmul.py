"""SparseMatMul: a linear layer over the last axis whose weight keeps only its non-zero blocks."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from sparsecc.ops.spec import Array, Attributes, Dim, LayerSpec


def infer(x: Sequence[Dim], weight: Sequence[int], attributes: Attributes) -> list[Dim]:
    """``[..., R]`` from X ``[..., K]`` and the weight's ``(R, K)``."""
    if not x:
        raise ValueError("X is a scalar, expected [..., K]")
    if isinstance(x[-1], int) and x[-1] != weight[1]:
        raise ValueError(f"X has {x[-1]} features, the weight wants {weight[1]}")
    return [*x[:-1], weight[0]]


def linear(x: Array, weight: Array, bias: Array, attributes: Attributes) -> Array:
    """``X @ W.T + bias``."""
    return x @ weight.T + bias


def linear_body(weight: str, output: str) -> list[onnx.NodeProto]:
    """Transpose, MatMul and Add: what a stock runtime recognises as a linear layer."""
    return [
        helper.make_node("Transpose", [weight], ["by_input"], perm=[1, 0]),
        helper.make_node("MatMul", ["X", "by_input"], ["product"]),
        helper.make_node("Add", ["product", "bias"], [output]),
    ]


SPARSE_MATMUL = LayerSpec(
    base="SparseMatMul",
    doc="Y = activation(X · Wᵀ + bias + residual), W kept as its non-zero blocks.",
    attributes={},
    weight_rank=2,
    infer=infer,
    linear=linear,
    linear_body=linear_body,
)
