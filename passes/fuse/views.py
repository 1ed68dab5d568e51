"""Values that are others seen with other dimensions: what reshapes, transposes and cuts amount to.

A view is written with strides, as array libraries do it: two chains of nodes that amount to the
same have equal views, in whatever order they cut, turn and join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.passes.edit import constant, is_op, scalar
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, Terms, over, times

Atom = tuple[Term, Term]
"""Size, and elements of the source between neighbours."""
Dim = tuple[Atom, ...]
"""What one dimension counts through, the slowest first; a dimension of size one has nothing."""

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
VIEWS = (*_RESHAPES, "Transpose", "Identity", "Split", "Slice", "Gather")
REPEATS = ("Expand", "Tile")
"""Views too, but of fewer elements than they have: some neighbours are the same one."""


@dataclass(frozen=True)
class View:
    """A value as elements of another.

    Attributes:
        source: The other, row-major.
        dims: One entry for each dimension of the value.
        offset: Elements of the source before the first one.
    """

    source: ir.Value
    dims: tuple[Dim, ...]
    offset: int = 0

    @property
    def atoms(self) -> list[Atom]:
        """All that is counted through, the slowest first."""
        return [atom for dim in self.dims for atom in dim]


def joined(atoms: Sequence[Atom]) -> Dim:
    """The same with as few atoms as possible."""
    found: list[Atom] = []
    for size, stride in atoms:
        if found and found[-1][1] == times(size, stride):
            found[-1] = (times(found[-1][0], size), stride)
        else:
            found.append((size, stride))
    return tuple(found)


def whole(value: ir.Value, shapes: Shapes) -> View | None:
    """A value as a view of itself."""
    terms = shapes.terms(value)
    if terms is None:
        return None
    strides = [times(*terms[at + 1 :]) for at in range(len(terms))]
    dims = (() if size == 1 else ((size, s),) for size, s in zip(terms, strides, strict=True))
    return View(value, tuple(dims))


@dataclass(frozen=True)
class Trace:
    """How a value comes from another.

    Attributes:
        view: What it is.
        nodes: What makes it so.
        scale: The factor on it.
    """

    view: View
    nodes: tuple[ir.Node, ...] = ()
    scale: float = 1.0


def trace(
    value: ir.Value,
    shapes: Shapes,
    *,
    scales: bool = False,
    repeats: bool = False,
    alone: bool = False,
) -> Trace | None:
    """What a value is a view of: the value that is farthest up.

    Args:
        value: The value.
        shapes: Of the model.
        scales: Whether to look through products by, and quotients by, a number too.
        repeats: Whether to look through what repeats elements too.
        alone: Whether to look no farther than through what nothing else reads.
    """
    seen = (*VIEWS, *REPEATS) if repeats else VIEWS
    steps: list[tuple[ir.Node, ir.Value]] = []
    at, node = value, value.producer()
    while is_op(node, *seen) or (scales and factor_of(node) is not None):
        assert node is not None
        if alone and (len(at.uses()) != 1 or at.is_graph_output()):
            break
        steps.append((node, at))
        source = data_of(node)
        if source is None or constant(source) is not None:
            return None
        at, node = source, source.producer()
    first = whole(at, shapes)
    found = None if first is None else Trace(first)
    for node, made in reversed(steps):
        factor = factor_of(node) if scales else None
        if found is not None and factor is not None:
            found = Trace(found.view, (*found.nodes, node), found.scale * factor)
            continue
        view = None if found is None else seen_through(found.view, node, made, shapes)
        if found is not None and view is not None:
            found = Trace(view, (*found.nodes, node), found.scale)
        else:  # that is no view: it begins anew
            begun = whole(made, shapes)
            found = None if begun is None else Trace(begun)
    return found


def data_of(node: ir.Node) -> ir.Value | None:
    """The input that a view, or a product by a number, is of."""
    if is_op(node, "Mul", "Div") and scalar(node.inputs[1]) is None:
        return node.inputs[1]
    return node.inputs[0]


def factor_of(node: ir.Node | None) -> float | None:
    """What a node multiplies by, if that is one number."""
    if node is None or not is_op(node, "Mul", "Div"):
        return None
    numbers = [scalar(value) for value in node.inputs]
    if node.op_type == "Mul":
        return numbers[0] if numbers[1] is None else numbers[1]
    return 1 / numbers[1] if numbers[1] else None


def seen_through(view: View, node: ir.Node, made: ir.Value, shapes: Shapes) -> View | None:
    """The view that an output of a node is, whose input is `view`; None where it is none."""
    if not is_op(node, *VIEWS, *REPEATS):
        return None
    if is_op(node, *REPEATS):
        return _repeated(view, node, shapes.terms(made))
    if is_op(node, "Identity"):
        return view
    if is_op(node, *_RESHAPES):
        terms = shapes.terms(made)
        return None if terms is None else reshaped(view, terms)
    if is_op(node, "Transpose"):
        rank = len(view.dims)
        order = node.attributes.get_ints("perm", list(reversed(range(rank))))
        return View(view.source, tuple(view.dims[axis] for axis in order), view.offset)
    if is_op(node, "Gather"):
        return _picked(view, node)
    return _cut(view, node, made, shapes)


def reshaped(view: View, sizes: Terms) -> View | None:
    """The same elements in the same order with dimensions of these sizes."""
    atoms, dims = view.atoms, list[Dim]()
    for size in sizes:
        need, dim = size, list[Atom]()
        while need != 1:
            if not atoms:
                return None
            have, stride = atoms.pop(0)
            more, rest = over(have, need), over(need, have)
            if rest is not None:
                dim.append((have, stride))
                need = rest
            elif more is not None:
                dim.append((need, times(stride, more)))
                atoms.insert(0, (more, stride))
                need = 1
            else:
                return None
        dims.append(tuple(dim))
    return None if atoms else View(view.source, tuple(dims), view.offset)


def _repeated(view: View, node: ir.Node, sizes: Terms | None) -> View | None:
    """Dimensions of one element, or a whole dimension, again and again: a stride of nothing."""
    if sizes is None or len(sizes) < len(view.dims):
        return None
    dims = []
    for size, dim in zip(sizes, ((),) * (len(sizes) - len(view.dims)) + view.dims, strict=True):
        times_over = over(size, times(*(count for count, _ in dim)))
        if times_over is None or (times_over != 1 and dim and is_op(node, "Expand")):
            return None
        again: Dim = () if times_over == 1 else ((times_over, 0),)
        dims.append((*again, *dim))
    return View(view.source, tuple(dims), view.offset)


def _picked(view: View, node: ir.Node) -> View | None:
    """One entry along an axis."""
    index = constant(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % len(view.dims)
    if index is None or index.ndim:
        return None
    part = _range(view, axis, int(index), 1)
    return part and View(
        part.source, tuple(dim for at, dim in enumerate(part.dims) if at != axis), part.offset
    )


def _cut(view: View, node: ir.Node, made: ir.Value, shapes: Shapes) -> View | None:
    """A range along one axis, by Slice or as a part of a Split."""
    terms, rank = shapes.terms(made), len(view.dims)
    if terms is None or len(terms) != rank:
        return None
    if is_op(node, "Split"):
        axis = node.attributes.get_int("axis", 0) % rank
        parts = [shapes.terms(output) for output in node.outputs[: node.outputs.index(made)]]
        before = [part[axis] if part else None for part in parts]
        start = sum(size for size in before if isinstance(size, int))
        if not all(isinstance(size, int) for size in before):
            return None
    else:
        bounds = [constant(value) for value in node.inputs[1:]]
        if len(bounds) < 3 or any(bound is None or bound.size != 1 for bound in bounds):
            return None
        start, _, axis, step = [*(int(b.reshape(())) for b in bounds if b is not None), 1][:4]
        if step != 1:
            return None
    return _range(view, axis % rank, start, terms[axis])


def _range(view: View, axis: int, start: int, size: Term) -> View | None:
    atoms = joined(view.dims[axis])
    if not isinstance(size, int) or len(atoms) != 1:
        return None
    have, stride = atoms[0]
    if not isinstance(have, int) or not isinstance(stride, int):
        return None
    start += have * (start < 0)
    if not 0 <= start <= start + size <= have:
        return None
    dim: Dim = ((size, stride),) if size != 1 else ()
    dims = (*view.dims[:axis], dim, *view.dims[axis + 1 :])
    return View(view.source, dims, view.offset + start * stride)
