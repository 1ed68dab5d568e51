"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.torch.ops.table import Function, NodeView, Op, plain


def _gemm(node: NodeView) -> Function:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    trans_a, trans_b = node.get("transA", 0), node.get("transB", 0)
    node.ignore("broadcast")

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if trans_a else a
        b = b.t() if trans_b else b
        if c is not None and a.is_floating_point():
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        product = a @ b if alpha == 1 else alpha * (a @ b)
        if c is None:
            return product
        return (product + (c if beta == 1 else beta * c)).to(a.dtype)

    return gemm


def _einsum(node: NodeView) -> Function:
    equation = node.get("equation")
    return lambda *inputs: torch.einsum(equation, *inputs)


OPS: dict[str, Op] = {
    "Det": Op(plain(torch.det)),
    "Einsum": Op(_einsum, learned=(0, 1)),
    "Gemm": Op(_gemm, learned=(1, 2)),
    "MatMul": Op(plain(torch.matmul), learned=(0, 1)),
}
