"""Averages of sparse networks that share their zeros: Sparse Model Soups (Zimmer et al. 2023).

Networks that were fine-tuned from one pruned network, with other seeds or settings, are averaged
weight by weight; as their masks are equal, the average is as sparse as each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparsecc.errors import ModelError
from sparsecc.torch.module_layers import find_layers


def soup(models: Sequence[nn.Module]) -> nn.Module:
    """The average of several networks of the same zeros.

    Floating-point parameters and buffers are averaged, summed in float64; the rest is that of the
    first. That holds for the statistics of BatchNorm, too: where the networks differ much,
    ``torch.optim.swa_utils.update_bn`` takes them anew.

    Args:
        models: The networks, plain (masks removed, Sparsifiers finished). None is changed.

    Returns:
        A copy of the first with the average in it.

    Raises:
        ModelError: There are none, or a layer differs in shape or in its zeros; names it.
    """
    if not models:
        raise ModelError("a soup of no models", fix="give one or more")
    states = [model.state_dict() for model in models]
    for position, state in enumerate(states[1:], start=2):
        _check_same(states[0], state, position)
    for layer in find_layers(models[0]):
        key = f"{layer.name}.{layer.parameter}".removeprefix(".")
        _check_zeros(layer.name, [state[key] for state in states])
    mixed = {key: _mean([state[key] for state in states]) for key in states[0]}
    result = copy.deepcopy(models[0])
    result.load_state_dict(mixed)
    return result


def greedy_soup(models: Sequence[nn.Module], score: Callable[[nn.Module], float]) -> nn.Module:
    """The soup that grows by one network at a time as long as it does not get worse.

    The networks are tried from the best to the worst, as by Wortsman et al. (2022); the soup
    therefore scores at least what the best of them does.

    Args:
        models: As for :func:`soup`.
        score: Quality of a network on held-out data, higher is better.

    Raises:
        ModelError: As :func:`soup`.
    """
    scores = [score(model) for model in models]
    order = sorted(range(len(models)), key=lambda position: -scores[position])
    chosen = order[:1]
    mixed, best = soup([models[position] for position in chosen]), max(scores, default=0.0)
    for position in order[1:]:
        tried = soup([models[each] for each in (*chosen, position)])
        reached = score(tried)
        if reached >= best:
            chosen, mixed, best = [*chosen, position], tried, reached
    return mixed


def _check_same(first: dict[str, Tensor], other: dict[str, Tensor], position: int) -> None:
    for key in sorted(first.keys() | other.keys()):
        shapes = [list(state[key].shape) if key in state else None for state in (first, other)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"{key!r} is {shapes[0]} in the first model and {shapes[1]} in number {position}",
                fix="average models of one architecture, after finish() or remove_masks()",
            )


def _check_zeros(name: str, weights: Sequence[Tensor]) -> None:
    for position, weight in enumerate(weights[1:], start=2):
        different = int(((weight != 0) != (weights[0] != 0)).sum())
        if different:
            raise ModelError(
                f"{name!r} has {different} zeros in other places in the first model and in number "
                f"{position}",
                fix="fine-tune all models under the same masks: apply_masks(model, masks)",
            )


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0].clone()
    mean: Tensor = torch.stack([tensor.double() for tensor in tensors]).mean(0)
    return mean.to(tensors[0].dtype)
