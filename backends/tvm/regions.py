"""Parts of a model that the kernel library computes, each a function that TVM calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.backends.bundle.whole import Port, Whole
from sparsecc.backends.codegen.program import Program
from sparsecc.backends.tvm.importer import dtype_of
from sparsecc.errors import BackendError
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term
from sparsecc.passes.regions.lanes import lay_out
from sparsecc.passes.regions.unit import Unit


@dataclass(frozen=True, eq=False)
class Region:
    """Connected units as one function.

    Attributes:
        name: Of the function.
        whole: What it computes, as a model of its own.
        nodes: All nodes in it.
        inputs: Values it reads.
        outputs: Values it makes for others.
    """

    name: str
    whole: Whole
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def region_of(
    model: ir.Model, group: Sequence[Unit], shapes: Shapes, name: str, layers: Sequence[str]
) -> Region:
    """A region of units in the order they run.

    Args:
        model: What the units are of.
        group: Connected units.
        shapes: Of the model.
        name: Of the function.
        layers: Names of values that others read, besides the outputs of the model.

    Raises:
        BackendError: The shape of what it reads or makes is not known.
    """
    nodes = tuple(node for unit in group for node in unit.nodes)
    values = {
        str(each.name): each for node in nodes for each in (*node.inputs, *node.outputs) if each
    }
    made = [name for unit in group for name in unit.step.outputs]
    read = dict.fromkeys(name for unit in group for name in unit.step.inputs)
    inputs = [values[each] for each in read if each not in set(made)]
    wanted = set(layers)
    outputs = [values[each] for each in made if each in wanted or values[each].is_graph_output()]
    ends = tuple(str(each.name) for each in outputs)
    steps = lay_out([unit.step for unit in group], ends)
    program = Program(tuple(str(each.name) for each in inputs), ends, steps)
    arrays = {each: constant(values[each]) for each in program.constants}
    whole = Whole(
        tuple(_port(each, shapes) for each in inputs),
        tuple(_port(each, shapes) for each in outputs),
        program,
        {key: array for key, array in arrays.items() if array is not None},
    )
    return Region(name, whole, nodes, tuple(inputs), tuple(outputs))


def _port(value: ir.Value, shapes: Shapes) -> Port:
    terms = shapes.terms(value)
    if terms is None:
        raise BackendError(
            f"the rank of {value.name!r} is not known", fix="export the model with shapes"
        )
    dims = [_dim(term, f"{value.name}.{axis}") for axis, term in enumerate(terms)]
    return Port(str(value.name), dtype_of(value), tuple(dims))


def _dim(term: Term, otherwise: str) -> int | str:
    return term if isinstance(term, int | str) else otherwise
