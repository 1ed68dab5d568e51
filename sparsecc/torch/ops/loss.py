"""Losses, as models that were exported for training hold them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op


def _likelihood(node: NodeView) -> Function:
    reduction, ignored = node.get("reduction", "mean"), node.get("ignore_index", -100)

    def loss(x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return functional.nll_loss(
            x, target.long(), weight, ignore_index=ignored, reduction=reduction
        )

    return loss


def _cross_entropy(node: NodeView) -> Function:
    loss, both = _likelihood(node), node.wants(1)

    def cross_entropy(
        x: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        logarithms = torch.log_softmax(x, 1)
        result = loss(logarithms, target, weight)
        return (result, logarithms) if both else result

    return cross_entropy


OPS: dict[str, Op] = {
    "NegativeLogLikelihoodLoss": Op(_likelihood),
    "SoftmaxCrossEntropyLoss": Op(_cross_entropy),
}
