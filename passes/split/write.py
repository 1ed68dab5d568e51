"""A feed-forward network written as a router and a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.passes.moe.write import Experts, mixture, rows
from sparsecc.passes.split.find import FeedForward
from sparsecc.passes.split.router import LEAST_NORM
from sparsecc.passes.split.weigh import Split
from sparsecc.passes.tape import Tape

ROUTERS = {"MatMul": "/router", "Gemm": "/router.second"}
"""Ends of the names of a router's layers, behind that of the network."""


def write(found: FeedForward, split: Split, chosen: int) -> None:
    """Put experts in the place of a network; its layers are dead code then.

    Args:
        found: The network; its model is changed in place.
        split: Its neurons as experts, and their router.
        chosen: How many a token goes through; with all of them it is the same function.
    """
    node, x = found.down.layer.node, found.up.layer.input
    tape = Tape(node)
    tokens = rows(tape, x, found.features)
    experts = _route(tape, tokens, split, chosen)
    one = tape.op("Expand", tape.constant(np.array(1, np.float32)), tape.op("Shape", experts))
    made = mixture(tape, tokens, experts, one, _experts(found, split))
    if found.down.bias.any():
        made = tape.op("Add", made, tape.weight("bias", found.down.bias))
    if tokens is not x:
        lead = tape.op("Slice", tape.op("Shape", x), tape.ints(0), tape.ints(-1))
        tape.op("Reshape", made, tape.op("Concat", lead, tape.ints(found.features), axis=0))
    _name(tape.finish(), found.name)


def _name(nodes: Sequence[ir.Node], network: str) -> None:
    """Call what the report speaks of after the network that it was."""
    for node in nodes:
        if ops.is_mixture(node):
            node.name = network
        elif node.op_type in ("MatMul", "Gemm"):
            node.name = f"{network}{ROUTERS[node.op_type]}"


def _route(tape: Tape, tokens: ir.Value, split: Split, chosen: int) -> ir.Value:
    """Numbers of the experts of each token ``[T, k]``."""
    router = split.router
    square = tape.op("ReduceSum", tape.op("Mul", tokens, tokens), tape.ints(1), keepdims=1)
    least = tape.constant(np.array(LEAST_NORM, np.float32))
    unit = tape.op("Div", tokens, tape.op("Max", tape.op("Sqrt", square), least))
    hidden = tape.op("Tanh", tape.op("MatMul", unit, tape.weight("router", router.first)))
    second = tape.weight("router.second", router.second)
    scores = tape.op("Gemm", hidden, second, tape.weight("router.bias", router.bias))
    _, experts = tape.ops("TopK", scores, tape.ints(chosen), outputs=2, axis=1)
    return experts


def _experts(found: FeedForward, split: Split) -> Experts:
    """The weights of the network, those of each expert together."""
    weights, groups = found.weights(), split.groups
    made = {"up": weights["up"][groups], "up_bias": weights["up_bias"][groups]}
    if found.gate is not None:
        made |= {"gate": weights["gate"][groups], "gate_bias": weights["gate_bias"][groups]}
    down = weights["down"][:, groups.reshape(-1)].reshape(found.features, *groups.shape)
    return Experts(found.activation, made | {"down": down.transpose(1, 0, 2)})
