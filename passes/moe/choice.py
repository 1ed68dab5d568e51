"""Where experts are chosen: a TopK or an ArgMax over the last axis of scores."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.passes.edit import constant, is_op


@dataclass(frozen=True)
class Choice:
    """Experts that are chosen: the node, the values ``[..., k]`` and the scores ``[..., E]``."""

    node: ir.Node
    chosen: ir.Value
    scores: ir.Value
    k: int


def choice_of(node: ir.Node) -> Choice | None:
    """What a node chooses, if it does."""
    if is_op(node, "TopK"):
        sizes, chosen = constant(node.inputs[1]), node.outputs[1]
        k = None if sizes is None else int(sizes.reshape(-1)[0])
    elif is_op(node, "ArgMax"):
        k, chosen = 1, node.outputs[0]
    else:
        return None
    scores = node.inputs[0]
    if k is None or scores is None or scores.shape is None or not chosen.uses():
        return None
    axis = node.attributes.get_int("axis", -1 if is_op(node, "TopK") else 0)
    last = axis in (-1, len(scores.shape) - 1) and len(scores.shape) > 1
    return Choice(node, chosen, scores, k) if last else None
