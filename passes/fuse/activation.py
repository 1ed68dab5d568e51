"""Merge an activation, in whatever form the exporter wrote it, into the sparse op before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sparsecc import ops
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.sparse import absorb, linear_nodes

_ELEMENTWISE = """
    Add Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Max Min Mish Mul Neg Pow
    Reciprocal Relu Sigmoid Softplus Sqrt Sub Swish Tanh
"""
_LONGEST = 10
"""Nodes; the longest known spelling, GELU by tanh with its cube as Pow or Mul, has nine."""

# Where two activations are compared: densely where they bend, and far out on both sides, where
# a bound that is not there would show.
_FAR = np.geomspace(16, 1e30, 40)
_POINTS: NDArray[np.float64] = np.concatenate([-_FAR[::-1], np.linspace(-16, 16, 641), _FAR])
_TOLERANCE = 2e-6
"""Relative to max(1, |y|): float32 constants such as 0.70710677 are allowed their rounding."""


class Activation(Pass):
    """Sparse op + elementwise nodes that amount to a known activation become one variant.

    Exporters write SiLU, hard-swish and GELU in many orders of operations. Instead of a pattern
    for each, the chain's values at many points are compared with those of the activations.
    """

    name = "activation"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Merge the longest chain after each sparse op that amounts to an activation."""
        modified = False
        for node in linear_nodes(model):
            chains = list(chains_after(node))
            for chain in reversed(chains):
                activation = recognized(node.outputs[0], chain, model.opset_imports[""])
                if activation is not None:
                    absorb(node, chain, activation=activation)
                    modified = True
                    break
            else:
                if chains:
                    kinds = " + ".join(each.op_type for each in chains[0])
                    ctx.refuse(self.name, node, f"{kinds} is none of the known activations")
        return modified


def chains_after(node: ir.Node) -> Iterator[list[ir.Node]]:
    """Ever longer lists of elementwise nodes after `node` whose last output alone is read.

    Every node of a list reads only the output of `node`, other nodes of the list and constants
    of one element.
    """
    inside: dict[ir.Value, None] = {node.outputs[0]: None}
    chain: list[ir.Node] = []
    while len(chain) < _LONGEST:
        following = _next(node, inside, chain)
        if following is None:
            return
        chain.append(following)
        if all(_stays_inside(value, chain) for value in inside):
            yield list(chain)
        inside[following.outputs[0]] = None


def _next(node: ir.Node, inside: dict[ir.Value, None], chain: list[ir.Node]) -> ir.Node | None:
    """The next elementwise node that `chain` can grow by."""
    for value in inside:
        for reader in value.consumers():
            if (
                reader not in chain
                and reader.graph is node.graph
                and is_op(reader, *_ELEMENTWISE.split())
                and all(x is None or x in inside or _is_scalar(x) for x in reader.inputs)
            ):
                return reader
    return None


def _stays_inside(value: ir.Value, chain: list[ir.Node]) -> bool:
    return not value.is_graph_output() and all(reader in chain for reader in value.consumers())


def _is_scalar(value: ir.Value) -> bool:
    """Whether `value` is a constant of one element that cannot raise the rank of the others."""
    few = value.shape is not None and len(value.shape) <= 1 and value.shape.is_static()
    array = constant(value) if few else None
    return array is not None and array.size == 1


def recognized(x: ir.Value, chain: list[ir.Node], opset: int) -> str | None:
    """Name of the activation that `chain` computes from `x`, if it is one."""
    with np.errstate(all="ignore"):
        values = _evaluate(x, chain, opset)
        for activation in ops.ACTIVATIONS:
            wanted = activation.meaning(_POINTS)
            error = np.abs(values - wanted) / np.maximum(1, np.abs(wanted))
            if activation.name != "none" and np.all(error <= _TOLERANCE):  # False for NaN
                return activation.name
    return None


def _evaluate(x: ir.Value, chain: list[ir.Node], opset: int) -> NDArray[np.float64]:
    """What `chain` makes of :data:`_POINTS`, in float64."""
    read = {value for node in chain for value in node.inputs if value and _is_scalar(value)}
    constants = [
        onnx.numpy_helper.from_array(np.asarray(constant(value), np.float64), value.name)
        for value in read
    ]
    ends = [
        onnx.helper.make_tensor_value_info(value.name or "", onnx.TensorProto.DOUBLE, [None])
        for value in (x, chain[-1].outputs[0])
    ]
    nodes = [ir.serde.serialize_node(node) for node in chain]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (values,) = ReferenceEvaluator(model).run(None, {x.name or "": _POINTS})
    return np.asarray(values, np.float64)
