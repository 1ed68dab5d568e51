"""How far a student is from its teacher: at the outputs, and inside.

==================================  ===========================================================
an output of Softmax, LogSoftmax    Σ p·(log p − log q), mean over the rows (Kullback–Leibler)
an output of Sigmoid                the same for each element, which is on with probability p
any other floating-point output     ‖y − x‖² / ‖y‖², over the whole batch
a value inside                      the same as any other output
==================================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from sparsecc.errors import ModelError
from sparsecc.passes.edit import is_op

Outputs = Mapping[str, Tensor]
"""Values of a model by name."""

Loss = Callable[[Outputs, Any], Tensor]
"""A user's loss of one batch: outputs by name, and the labels of the batch, or the outputs of the
dense model by name where there are none → a number, differentiable."""

Pair = Callable[[Tensor, Tensor], Tensor]
"""(ours, the teacher's) → a number."""

_LEAST = 1e-6
_SAME_NUMBERS = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast")


def relative_error(ours: Tensor, wanted: Tensor) -> Tensor:
    """``‖ours − wanted‖² / ‖wanted‖²``."""
    ours, wanted = ours.float(), wanted.float()
    return (ours - wanted).square().sum() / wanted.square().sum().clamp_min(_LEAST)


def divergence(ours: Tensor, wanted: Tensor) -> Tensor:
    """Kullback–Leibler divergence of probabilities along the last axis, mean over the rows."""
    p, q = wanted.float().clamp_min(_LEAST), ours.float().clamp_min(_LEAST)
    return (p * (p.log() - q.log())).sum(-1).mean()


def log_divergence(ours: Tensor, wanted: Tensor) -> Tensor:
    """The same where both are logarithms of probabilities."""
    return (wanted.float().exp() * (wanted.float() - ours.float())).sum(-1).mean()


def binary_divergence(ours: Tensor, wanted: Tensor) -> Tensor:
    """Divergence of probabilities that each stand for themselves, mean over all of them."""
    p, q = wanted.float(), ours.float().clamp(_LEAST, 1 - _LEAST)
    on = p * (p.clamp_min(_LEAST).log() - q.log())
    off = (1 - p) * ((1 - p).clamp_min(_LEAST).log() - (1 - q).log())
    return (on + off).mean()


_BY_OP: dict[str, Pair] = {
    "Softmax": divergence,
    "LogSoftmax": log_divergence,
    "Sigmoid": binary_divergence,
}


def output_losses(model: ir.Model) -> dict[str, Pair]:
    """Output name → how it is compared, for the floating-point outputs.

    Raises:
        ModelError: There are none.
    """
    found = {
        value.name or "": _loss_of(value)
        for value in model.graph.outputs
        if value.dtype is None or value.dtype.is_floating_point()
    }
    if not found:
        raise ModelError(
            "recovery compares outputs, and none of the model's is floating point",
            fix="export the model with its scores as outputs, not only the classes",
        )
    return found


def goal_of(
    model: ir.Model, loss: Loss | None, *, labelled: bool
) -> Callable[[Outputs, Outputs, Any], Tensor]:
    """What is learnt: (outputs, those of the teacher, labels or None) → a number.

    Without a user's loss it is the mean distance of the outputs to the teacher's; with labels that
    are class numbers, their cross entropy is added.

    Raises:
        ModelError: The model has no floating-point output.
    """
    if loss is not None:
        user = loss
        return lambda ours, wanted, truth: user(ours, wanted if truth is None else truth)
    losses = output_losses(model)

    def distance(ours: Outputs, wanted: Outputs, truth: Any) -> Tensor:
        return torch.stack([of(ours[name], wanted[name]) for name, of in losses.items()]).mean()

    name = next(iter(losses))
    kind = losses[name]
    if not labelled or kind is binary_divergence:
        return distance
    return lambda ours, wanted, truth: (
        distance(ours, wanted, truth) + _cross_entropy(ours[name], truth, kind)
    )


def _cross_entropy(scores: Tensor, truth: Any, kind: Pair) -> Tensor:
    """Of class numbers `[N]` and scores `[N, C]`; 0 where labels are something else."""
    if truth.dtype.kind not in "iu" or truth.shape != tuple(scores.shape[:-1]):
        return scores.new_zeros(())
    scores = scores.float().reshape(-1, scores.shape[-1])
    if kind is divergence:
        scores = scores.clamp_min(_LEAST).log()
    labels = torch.from_numpy(truth.reshape(-1).astype("int64")).to(scores.device)
    return torch.nn.functional.cross_entropy(scores, labels)


def _loss_of(value: ir.Value) -> Pair:
    node = value.producer()
    while is_op(node, *_SAME_NUMBERS) and node is not None and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    last_axis = node is not None and node.attributes.get_int("axis", -1) in (-1, _rank(value) - 1)
    if node is None or not is_op(node, *_BY_OP) or not (last_axis or node.op_type == "Sigmoid"):
        return relative_error
    return _BY_OP[node.op_type]


def _rank(value: ir.Value) -> int:
    return len(value.shape) if value.shape is not None else 0


__all__ = ["Loss", "Outputs", "goal_of", "output_losses", "relative_error"]
