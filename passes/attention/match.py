"""Attention around a softmax: two products, and between them what scales and masks the scores."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import is_op, scalar
from sparsecc.passes.fuse.views import data_of, factor_of

MASKED = -1e4
"""A score this far down counts as masked: beside a kept key its exponential is 0 in float32."""
_RANKS = (3, 4)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Term:
    """Something that masks scores, or is added to them.

    Attributes:
        value: What is added; with `shown`, the condition of a choice.
        factor: What is added is multiplied by it.
        shown: What the condition is where the scores stay, or None where there is none.
        fill: What stands in the place of the other scores.
    """

    value: ir.Value
    factor: float = 1.0
    shown: bool | None = None
    fill: float = 0.0


@dataclass
class Attention:
    """softmax(scale · Q Kᵀ + terms) V.

    Attributes:
        softmax: Its node.
        product: The product of Q and Kᵀ, its inputs.
        context: The product of probabilities and V, its inputs.
        nodes: These two and all that is between them.
        scale: On the scores; what Q and K are multiplied by before is not in it.
        terms: From the softmax up.
        recast: Whether the softmax is of another type than the scores.
        guarded: Whether a query that sees no key gives zeros, where a softmax alone makes NaN.
    """

    softmax: ir.Node
    product: ir.Node
    context: ir.Node
    nodes: list[ir.Node] = field(default_factory=list)
    scale: float = 1.0
    terms: list[Term] = field(default_factory=list)
    recast: bool = False
    guarded: bool = False

    @property
    def is_flat(self) -> bool:
        """Whether batch and heads are one dimension."""
        x = self.softmax.inputs[0]
        return x is not None and x.shape is not None and len(x.shape) == min(_RANKS)


def match(softmax: ir.Node) -> Attention | str | None:
    """The attention around a Softmax.

    Returns:
        What it is; a clause that says why it is of no form that is known; None where the softmax
        is not of a product.
    """
    x, probabilities = softmax.inputs[0], softmax.outputs[0]
    if x is None or not _leads_to_product(x):
        return None
    if x.shape is None or len(x.shape) not in _RANKS or x.dtype not in _FLOATS:
        return "a softmax of other than [batch, heads, queries, keys] in float32"
    if softmax.attributes.get_int("axis", -1) not in (-1, len(x.shape) - 1):
        return "a softmax over another axis than the last"
    found = Attention(softmax, softmax, softmax, [softmax])
    reason = _upward(x, found) or _downward(probabilities, found)
    if reason:
        return reason
    _absorb_guard(found)
    if not np.isfinite(np.float32(found.scale)):
        return "scores with a scale that is no number"
    return found


def _upward(x: ir.Value, found: Attention) -> str | None:
    """From what the softmax reads to the product of queries and keys."""
    node = x.producer()
    while node is not None and not is_op(node, "MatMul"):
        before = _step(node, found)
        if isinstance(before, str):
            return before
        found.nodes.append(node)
        node = before.producer()
    assert node is not None  # what leads to a product ends in one
    found.product = node
    found.nodes.append(node)
    return None


def _step(node: ir.Node, found: Attention) -> ir.Value | str:
    """The scores that a node reads."""
    factor = factor_of(node)
    if factor:
        found.scale *= factor
        return _present(data_of(node))
    if is_op(node, "Cast"):
        found.recast = True
        return _present(node.inputs[0])
    scores = _scores_among(node)
    if scores is None:
        capped = is_op(node, "Tanh")
        return "scores capped by Tanh" if capped else f"a softmax of what {node.op_type} makes"
    term = _term(node, scores, found.scale)
    if isinstance(term, str):
        return term
    found.terms.append(term)
    return _present(node.inputs[scores])


def _present(value: ir.Value | None) -> ir.Value:
    assert value is not None  # none of these ops has optional inputs
    return value


def _scores_among(node: ir.Node) -> int | None:
    """Which input of a sum or choice is the scores."""
    if not is_op(node, "Add", "Where"):
        return None
    places = (0, 1) if is_op(node, "Add") else (1, 2)
    return next((at for at in places if _leads_to_product(node.inputs[at])), None)


def _leads_to_product(value: ir.Value | None) -> bool:
    while value is not None and (node := value.producer()) is not None:
        if is_op(node, "MatMul"):
            return True
        among = _scores_among(node)
        if among is not None:
            value = node.inputs[among]
        elif factor_of(node) or is_op(node, "Cast", "Tanh"):
            value = data_of(node)
        else:
            return False
    return False


def _term(node: ir.Node, scores: int, factor: float) -> Term | str:
    value = _present(node.inputs[1 - scores if is_op(node, "Add") else 0])
    if is_op(node, "Add"):
        return Term(value, factor)
    fill = scalar(node.inputs[3 - scores])
    if fill is None:
        return "scores in whose place stand other values than one number"
    return Term(value, factor, scores == 1, fill)


def _downward(probabilities: ir.Value, found: Attention) -> str | None:
    """From what the softmax makes to the product with the values."""
    while (reader := sole_reader(probabilities)) is not None:
        if is_op(reader, "MatMul") and reader.inputs[0] is probabilities:
            found.context = reader
            found.nodes.append(reader)
            return None
        if is_op(reader, "Cast"):
            found.recast = True
        else:
            return f"probabilities that {reader.op_type} reads"
        found.nodes.append(reader)
        probabilities = reader.outputs[0]
    guard = _guard(probabilities)
    if guard is None:
        return "probabilities that others read too"
    found.guarded = True
    found.nodes += guard
    return _downward(guard[-1].outputs[0], found)


def _guard(probabilities: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """Where(IsNaN(p), 0, p): what makes zeros of a row in which every key is masked."""
    readers = {node.op_type: node for node in probabilities.consumers()}
    test, choice = readers.get("IsNaN"), readers.get("Where")
    if test is None or choice is None or len(readers) != 2 or probabilities.is_graph_output():
        return None
    condition, zero, kept = choice.inputs
    fits = condition is test.outputs[0] and kept is probabilities and scalar(zero) == 0.0
    return (test, choice) if fits and sole_reader(test.outputs[0]) is choice else None


def _absorb_guard(found: Attention) -> None:
    """Where(max(mask) == -inf, 0, context): zeros of such a row, as Attention is defined."""
    choice = sole_reader(found.context.outputs[0])
    if choice is None or not is_op(choice, "Where") or len(found.terms) != 1:
        return
    condition, zero, kept = choice.inputs
    test = condition.producer() if condition is not None else None
    if kept is not found.context.outputs[0] or scalar(zero) != 0.0 or not is_op(test, "Equal"):
        return
    assert test is not None
    best = test.inputs[0].producer() if test.inputs[0] is not None else None
    term = found.terms[0]
    of_mask = best is not None and is_op(best, "ReduceMax") and best.inputs[0] is term.value
    if of_mask and term.shown is None and scalar(test.inputs[1]) == -np.inf:
        found.guarded = True
        found.nodes.append(choice)


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, however often, if nothing else does."""
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None
