"""Invariants every model must keep between two passes.

A broken invariant is a bug of sparsecc, so this raises an internal error, never a
:class:`sparsecc.errors.SparseccError`. It names the pass that ran last and the node.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterator

import onnx_ir as ir

from sparsecc import ops

Scope = frozenset[ir.Value]


class VerificationError(ir.passes.InvariantError):
    """A model broke an invariant.

    Args:
        after: The pass that ran last.
        where: Name of the node, initializer or graph concerned.
        what: The invariant, as it is violated.
    """

    def __init__(self, after: str, where: str, what: str) -> None:
        self.after = after
        self.where = where
        super().__init__(f"after {after!r}: {where!r}: {what}")


def verify_model(model: ir.Model, after: str = "capture") -> None:
    """Check `model` against every invariant.

    Checked: single assignment, topological order, every used value defined, unique value
    names per graph and unique node names, initializers that agree with their declared type and
    shape, opset imports for every domain used, operations of the sparsecc domain against their
    schema, and (as soon as one body is attached) a function body for each of them.

    Args:
        model: The model, left untouched.
        after: Name of the pass that ran last, for the message.

    Raises:
        VerificationError: On the first violation.
    """
    _verify_graph(model.graph, frozenset(), after)
    _verify_node_names(model.graph.all_nodes(), after)
    for node in model.graph.all_nodes():
        _verify_domain(node, model.graph.opset_imports, after)
    for function in model.functions.values():
        _verify_function(function, after)
    _verify_sparse_ops(model, after)


def fingerprint(model: ir.Model) -> Hashable:
    """Structure of `model` as one comparable value: equal means unchanged.

    Tensors count by identity, so no weight is read.
    """
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    return (
        tuple(_graph_fingerprint(graph) for graph in graphs),
        tuple(sorted(model.graph.opset_imports.items())),
        tuple(model.functions),
        model.ir_version,
    )


def _graph_fingerprint(graph: ir.Graph) -> Hashable:
    nodes = tuple(
        (
            node.op_identifier(),
            node.name,
            tuple(value and value.name for value in node.inputs),
            tuple((out.name, str(out.shape), str(out.type)) for out in node.outputs),
            tuple(_attribute_fingerprint(attr) for attr in node.attributes.values()),
        )
        for node in graph
    )
    initializers = tuple(
        (name, id(value.const_value)) for name, value in graph.initializers.items()
    )
    signature = tuple(
        tuple((value.name, str(value.shape), str(value.type)) for value in values)
        for values in (graph.inputs, graph.outputs)
    )
    return nodes, initializers, signature


def _attribute_fingerprint(attr: ir.Attr) -> Hashable:
    if attr.is_ref():
        return attr.name, attr.ref_attr_name
    if attr.type == ir.AttributeType.GRAPH:
        return attr.name, _graph_fingerprint(attr.as_graph())
    if attr.type == ir.AttributeType.GRAPHS:
        return attr.name, tuple(_graph_fingerprint(graph) for graph in attr.as_graphs())
    if attr.type in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
        return attr.name, id(attr.value)
    return attr.name, str(attr.value)


def _verify_graph(graph: ir.Graph, outer: Scope, after: str) -> None:
    """Check one graph and its subgraphs; `outer` holds the values visible from outside."""
    where = graph.name or "graph"
    for name, value in graph.initializers.items():
        _verify_initializer(name, value, after)
    defined = set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        at = node.name or node.op_type
        if node.graph is not graph:
            raise VerificationError(after, at, "it is listed by a graph it does not belong to")
        for read in node.inputs:
            if read is not None and read not in defined and read not in outer:
                raise VerificationError(after, at, f"input {read.name!r} is not defined before it")
        for subgraph in _subgraphs(node):
            _verify_graph(subgraph, outer | frozenset(defined), after)
        for output in node.outputs:
            if output in defined:
                raise VerificationError(after, at, f"output {output.name!r} is assigned twice")
            defined.add(output)
    for output in graph.outputs:
        if output not in defined and output not in outer:
            raise VerificationError(after, where, f"graph output {output.name!r} is not defined")
    names = collections.Counter(value.name for value in defined if value.name != "")
    for repeated, count in names.items():
        if repeated is None:
            raise VerificationError(after, where, "a value has no name")
        if count > 1:
            raise VerificationError(after, where, f"{count} values share the name {repeated!r}")


def _verify_initializer(name: str, value: ir.Value, after: str) -> None:
    tensor = value.const_value
    if tensor is None:
        raise VerificationError(after, name, "the initializer has no data")
    if value.dtype is not None and value.dtype != tensor.dtype:
        raise VerificationError(after, name, f"declared {value.dtype}, holds {tensor.dtype}")
    if value.shape is not None and value.shape != tensor.shape:
        raise VerificationError(after, name, f"declared {value.shape}, holds {tensor.shape}")


def _verify_node_names(nodes: Iterator[ir.Node], after: str) -> None:
    seen: set[str] = set()
    for node in nodes:
        if not node.name:
            raise VerificationError(after, node.op_type, "the node has no name")
        if node.name in seen:
            raise VerificationError(after, node.name, "two nodes share this name")
        seen.add(node.name)


def _verify_domain(node: ir.Node, imports: dict[str, int], after: str) -> None:
    if node.domain not in imports:
        raise VerificationError(
            after, node.name or node.op_type, f"no opset import for domain {node.domain!r}"
        )


def _verify_function(function: ir.Function, after: str) -> None:
    _verify_graph(function.graph, frozenset(), after)
    for node in function.all_nodes():
        _verify_domain(node, function.opset_imports, after)


def _verify_sparse_ops(model: ir.Model, after: str) -> None:
    bodies = {key for key in model.functions if key[0] == ops.DOMAIN}
    for node in model.graph.all_nodes():
        if not ops.is_ours(node):
            continue
        at = node.name or node.op_type
        try:
            if not ops.is_region(node):
                ops.check_node(node)
        except ValueError as error:
            raise VerificationError(after, at, str(error)) from error
        if bodies and node.op_identifier() not in bodies:
            raise VerificationError(after, at, f"{node.op_type} has no function body")


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()
