"""What experts may compute, of the products that were found: which half, which activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes.moe.block import Expert
from sparsecc.passes.moe.products import Product
from sparsecc.passes.moe.write import Experts

Array = NDArray[np.floating]
_LIKELY = ("silu", "gelu", "gelu_tanh", "relu")
ACTIVATIONS = sorted(
    (activation.name for activation in ops.ACTIVATIONS),
    key=lambda name: (name not in _LIKELY, name),
)

_Part = tuple[Array, Array | None]
"""Weight ``[E, outputs, inputs]`` and bias ``[E, outputs]``."""


def hypotheses(experts: Sequence[Expert]) -> Iterator[Experts]:
    """Everything that the experts may compute; what they do compute is found by running them."""
    down = _stacked([expert.down for expert in experts])
    ups = [_stacked(each) for each in zip(*(expert.ups for expert in experts), strict=True)]
    inner = down[0].shape[2]
    for (up, gate), activation in product(_roles(ups, inner), ACTIVATIONS):
        held = {"up": up, "down": down} | ({} if gate is None else {"gate": gate})
        weights = {name: weight for name, (weight, _) in held.items()}
        biases = {f"{name}_bias": b for name, (_, b) in held.items() if b is not None}
        yield Experts(activation, weights | biases)


def _roles(ups: Sequence[_Part], inner: int) -> Iterator[tuple[_Part, _Part | None]]:
    """What is activated and what multiplies it."""
    if len(ups) == 2:
        yield ups[0], ups[1]
        yield ups[1], ups[0]
        return
    both = ups[0]
    if both[0].shape[1] == inner:
        yield both, None
        return
    halves = _cut(both, slice(inner)), _cut(both, slice(inner, None))
    turns = _cut(both, slice(0, None, 2)), _cut(both, slice(1, None, 2))
    for first, second in (halves, turns):
        yield first, second
        yield second, first


def _cut(part: _Part, rows: slice) -> _Part:
    weight, bias = part
    return weight[:, rows], None if bias is None else bias[:, rows]


def _stacked(products: Sequence[Product]) -> _Part:
    """The weights of one product of every expert."""
    biases = [each.bias for each in products]
    if products[0].is_stacked:
        return products[0].weight.numpy(), biases[0]
    weight = np.stack([each.weight.numpy() for each in products])
    if all(bias is None for bias in biases):
        return weight, None
    empty = np.zeros(weight.shape[1], weight.dtype)
    return weight, np.stack([empty if bias is None else bias for bias in biases])
