"""The router of experts that were neurons of one network: two small layers, trained on samples.

``scores = tanh(x / ‖x‖ · first) · second + bias``, whose largest are the experts of a token. What
it learns is what each expert brings, over the largest of a batch, by binary cross-entropy. Source:
Zhang et al., MoEfication (arXiv 2110.01786), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sparsecc.passes.split.group import Groups

Array = NDArray[np.float32]
EPOCHS, BATCH, RATE = 30, 512, 1e-2
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
LEAST_NORM = 1e-12
"""Of a token: a vector of zeros has a direction too."""


@dataclass(frozen=True)
class Router:
    """Two layers.

    Attributes:
        first: ``[features, experts]``.
        second: ``[experts, experts]``.
        bias: ``[experts]``.
    """

    first: Array
    second: Array
    bias: Array

    def scores(self, x: Array) -> Array:
        """Of every expert ``[tokens, experts]`` for tokens ``[tokens, features]``."""
        made: Array = np.tanh(directions(x) @ self.first) @ self.second + self.bias
        return made

    def chosen(self, x: Array, count: int) -> NDArray[np.int64]:
        """The best experts of each token ``[tokens, count]``, best first, the first of equals."""
        return best(self.scores(x), count)


def best(scores: Array, count: int) -> NDArray[np.int64]:
    """Numbers of the largest scores of each row ``[rows, count]``."""
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order


def directions(x: Array) -> Array:
    """Tokens over their norm."""
    norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    unit: Array = x / np.maximum(norms, np.float32(LEAST_NORM))
    return unit


def brought(hidden: Array, groups: Groups, down: Array) -> Array:
    """What each expert brings to the output of each token, about ``[tokens, experts]``.

    The norm of its hidden features, each times the norm of its column of ``down``. For the sum of
    positive features, which MoEfication has, routers lose a sixth more (docs/moe.md).

    Args:
        hidden: ``[tokens, neurons]``.
        groups: Neurons of each expert.
        down: The weight behind ``[features, neurons]``.
    """
    scaled = hidden * np.linalg.norm(down, axis=0)
    parts = scaled[:, groups.reshape(-1)].reshape(len(hidden), *groups.shape)
    norms: Array = np.sqrt(np.square(parts).sum(axis=2))
    return norms


def train(x: Array, wanted: Array, up: Array, groups: Groups, rng: np.random.Generator) -> Router:
    """Train a router.

    Args:
        x: Tokens ``[tokens, features]``.
        wanted: What each expert brings ``[tokens, experts]``, positive.
        up: Rows of the neurons ``[neurons, features]``: the router begins with their means.
        groups: Neurons of each expert.
        rng: Shuffles the tokens.
    """
    unit, count = directions(x), len(groups)
    centres = up[groups].mean(axis=1)
    weights = [
        directions(centres).T.astype(np.float32).copy(),
        np.eye(count, dtype=np.float32),
        np.zeros(count, np.float32),
    ]
    state = [[np.zeros_like(weight) for weight in weights] for _ in _BETAS]
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(unit))
        for start in range(0, len(order), BATCH):
            rows, step = order[start : start + BATCH], step + 1
            _adam(weights, _gradients(unit[rows], wanted[rows], weights), state, step)
    return Router(*weights)


def _gradients(x: Array, wanted: Array, weights: list[Array]) -> list[Array]:
    """Of the mean binary cross-entropy."""
    first, second, bias = weights
    hidden = np.tanh(x @ first)
    truth = wanted / max(float(wanted.max()), LEAST_NORM)
    behind = (expit(hidden @ second + bias) - truth) / np.float32(truth.size)
    before = (behind @ second.T) * (1 - hidden * hidden)
    return [x.T @ before, hidden.T @ behind, behind.sum(axis=0)]


def _adam(
    weights: list[Array], gradients: list[Array], state: list[list[Array]], step: int
) -> None:
    scale = RATE * (1 - _BETAS[1] ** step) ** 0.5 / (1 - _BETAS[0] ** step)
    for weight, gradient, mean, square in zip(weights, gradients, *state, strict=True):
        mean += (1 - _BETAS[0]) * (gradient - mean)
        square += (1 - _BETAS[1]) * (gradient * gradient - square)
        weight -= np.float32(scale) * mean / (np.sqrt(square) + np.float32(_EPSILON))
