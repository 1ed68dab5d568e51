"""The mixtures of experts of a model, and where the experts of each are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.moe.choice import Choice, choice_of

Weights = dict[str, NDArray[np.float32]]
"""Of all experts, by the names of the op's inputs."""
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Transpose")
EXPERTS = 1
"""Input of the op that says which experts are chosen."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts with constant weights.

    Attributes:
        node: The op.
        weights: Of its experts.
        choice: Where experts are chosen; None where none of them can be kept from being chosen.
        why: Why they cannot, or "".
    """

    node: ir.Node
    weights: Weights = field(repr=False)
    choice: Choice | None
    why: str = ""

    @property
    def name(self) -> str:
        """Of the node."""
        return str(self.node.name)

    @property
    def count(self) -> int:
        """How many experts there are."""
        return len(self.weights["up"])

    @property
    def activation(self) -> str:
        """A name of ``ACTIVATIONS``."""
        return ops.parse_mixture(self.node.op_type)[0]

    @property
    def least(self) -> int:
        """As many experts as a token has; fewer cannot be chosen from."""
        return self.choice.k if self.choice is not None else 1


def find_mixtures(model: ir.Model) -> list[Mixture]:
    """All of the main graph whose weights are constant, in its order."""
    nodes = [each for each in model.graph if ops.is_mixture(each)]
    choices = {node: _choice(node.inputs[EXPERTS]) for node in nodes}
    shared = [each.node for each in choices.values() if each is not None]
    found = []
    for node, choice in choices.items():
        weights = _weights(node)
        if weights is None:
            continue
        why = _why_not(choice, len(weights["up"]))
        if choice is not None and shared.count(choice.node) > 1:
            why = "another mixture has the same choice of experts"
        found.append(Mixture(node, weights, None if why else choice, why))
    return found


def _weights(node: ir.Node) -> Weights | None:
    if ops.is_packed_mixture(node):
        return None
    named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
    arrays = {name: constant(each) for name, each in named.items() if name not in ops.ROUTED}
    known = {name: array for name, array in arrays.items() if array is not None}
    return known if len(known) == len(arrays) else None


def _choice(value: ir.Value | None) -> Choice | None:
    """The choice that a value holds, in whatever shape."""
    node = value.producer() if value is not None else None
    while is_op(node, *_VIEWS):
        assert node is not None
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    choice = choice_of(node) if node is not None else None
    return choice if choice is not None and choice.chosen is value else None


def _why_not(choice: Choice | None, count: int) -> str:
    if choice is None:
        return "what chooses its experts is no TopK or ArgMax over their scores"
    offered = choice.scores.shape[-1] if choice.scores.shape is not None else None
    if offered != count:
        return f"its experts are chosen by {offered or 'an open number of'} scores"
    if is_op(choice.node, "TopK") and not choice.node.attributes.get_int("largest", 1):
        return "the experts with the least scores are chosen"
    return ""


__all__ = ["EXPERTS", "Mixture", "Weights", "find_mixtures"]
