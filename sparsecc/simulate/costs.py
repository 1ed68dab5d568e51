"""Seconds of single operators on one device that has nothing else to do.

Each is the longer of computing and of moving its operands, ``T = t₀ + max(F / (P η), Q / BW)``.
A product achieves ``η = share(FLOPs) · K / (K + K½)`` of the peak, its sides rounded up to tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsecc.simulate.cluster import Device, Operator, rounded
from sparsecc.simulate.described import along
from sparsecc.simulate.model import Model

BACKWARD_FLOPS = 2.5
"""Of attention over forward: scores again, then four products where forward has two."""


def streaming(device: Device, size: float) -> float:
    """Reading and writing so many bytes, with little to compute: norms, activations, sums."""
    if size <= 0:
        return 0.0
    return device.start + size / (device.bandwidth * along(device.streamed, size))


def product(
    device: Device,
    model: Model,
    m: float,
    k: float,
    n: float,
    *,
    operator: Operator = "matrix",
) -> float:
    """A matrix [m, k] times one [k, n].

    Args:
        device: Where.
        model: Says the data type.
        m: Rows: tokens.
        k: Length of the sums.
        n: Columns.
        operator: What is achieved of the peak.
    """
    if m <= 0:
        return 0.0
    speed = device.speed(operator)
    flops = 2 * rounded(m, speed.rows) * k * rounded(n, speed.columns)
    share = along(speed.achieved, 2 * m * k * n) * k / (k + speed.half_depth)
    moved = model.item_bytes * (m * k + k * n + m * n)
    computing = flops / (device.peak[model.dtype] * share)
    return speed.start + max(computing, moved / device.bandwidth)


def product_backward(device: Device, model: Model, m: float, k: float, n: float) -> float:
    """The gradients of both operands of a product."""
    return product(device, model, m, n, k) + product(device, model, k, m, n)


def experts(
    device: Device, model: Model, tokens: Sequence[float], *, backward: bool = False
) -> float:
    """The products of experts, grouped: each expert's tokens are rounded up to whole tiles.

    An expert without tokens costs nothing; the others read their weights.

    Args:
        device: Where.
        model: Says the sizes.
        tokens: Of each expert on the device.
        backward: Whether gradients are made.
    """
    d, width = model.d, model.expert_width
    up = width * (2 if model.gated else 1)

    def one(m: float) -> float:
        forward = [(m, d, up), (m, width, d)]
        back = [(m, d, width), (width, m, d), (m, up, d), (d, m, up)]
        sizes = back if backward else forward
        return sum(product(device, model, *each, operator="experts") for each in sizes)

    # Many experts have the same load where none is given.
    return sum(tokens.count(m) * one(m) for m in set(tokens) if m > 0)


def attention(
    device: Device, model: Model, sequences: float, heads: float, *, backward: bool = False
) -> float:
    """Causal attention of whole sequences: the half of the scores that are seen.

    Args:
        device: Where.
        model: Says the sizes.
        sequences: How many.
        heads: How many of the model's heads.
        backward: Whether gradients are made.
    """
    a, s = model.attention, model.sequence
    flops = sequences * heads * s * (s + 1) * (a.key_dim + a.value_dim)
    flops *= BACKWARD_FLOPS if backward else 1
    speed = device.speed("attention_backward" if backward else "attention")
    computing = flops / (device.peak[model.dtype] * along(speed.achieved, flops))
    moved = 2 * model.item_bytes * sequences * heads * s * (a.key_dim + a.value_dim)
    return speed.start + max(computing, moved * (2 if backward else 1) / device.bandwidth)


__all__ = ["attention", "experts", "product", "product_backward", "streaming"]
