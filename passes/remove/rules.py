"""What cutting positions out of values means for each operator: its constants, or why it cannot be.

A rule sees a node and, for values that are cut, which positions are kept along each axis. It gives
new inputs by their place and new attributes by name, or says why the node stands against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant, is_op

Keep = tuple[NDArray[np.bool_], ...]
"""For each axis of a value, which of its positions are kept; one position where none is cut."""
Keeps = Mapping[ir.Value, Keep]
Edits = dict[int | str, Any]
Rule = Callable[[ir.Node, Keeps], Edits | str]

COMPUTED = "its sizes are computed"
MIXES = "what it computes of the channels that stay depends on the others"
_OLD_SOFTMAX = 13


def counts(keep: Keep | None) -> dict[int, int]:
    """Axis → how many positions are kept, for the axes that are cut."""
    return {axis: int(each.sum()) for axis, each in enumerate(keep or ()) if not each.all()}


def _kept(node: ir.Node, keeps: Keeps, position: int = 0) -> Keep | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    return None if value is None else keeps.get(value)


def follows(node: ir.Node, keeps: Keeps) -> Edits | str:
    """Nothing about a node says how many channels there are."""
    return {}


def product(node: ir.Node, keeps: Keeps) -> Edits | str:
    """A MatMul: what is summed up by a weight may be cut, what two computed values share not."""
    left, right = (_kept(node, keeps, at) for at in (0, 1))
    weight = node.inputs[1]
    assert weight is not None
    if constant(weight) is not None:
        return {}
    summed = (left and not left[-1].all()) or (right and not right[-2].all())
    return MIXES if summed else {}


def convolution(node: ir.Node, keeps: Keeps) -> Edits | str:
    """Whole groups go; weights are seen as ``[groups, outputs, inputs, ...]``."""
    weight = _kept(node, keeps, 1)
    if node.attributes.get_int("group", 1) == 1 or weight is None:
        return {}
    return {"group": int(weight[0].sum())}


def _over(axes: Callable[[ir.Node, int], list[int] | None]) -> Rule:
    """The rule of what sums up, or compares, along some axes."""

    def rule(node: ir.Node, keeps: Keeps) -> Edits | str:
        keep = _kept(node, keeps)
        if keep is None:
            return {}
        over = axes(node, len(keep))
        mixed = over is None or any(axis in counts(keep) for axis in over)
        return MIXES if mixed else {}

    return rule


def _reduced(node: ir.Node, rank: int) -> list[int] | None:
    axes = node.attributes.get_ints("axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = constant(node.inputs[1])
        if given is None:
            return None
        axes = [int(axis) for axis in given.ravel()]
    if not axes:
        noop = bool(node.attributes.get_int("noop_with_empty_axes", 0))
        return [] if noop else list(range(rank))
    return [axis % rank for axis in axes]


def _normalised(node: ir.Node, rank: int) -> list[int]:
    return list(range(node.attributes.get_int("axis", -1) % rank, rank))


def _softmax(node: ir.Node, rank: int) -> list[int]:
    graph = node.graph
    opset = graph.opset_imports.get("", _OLD_SOFTMAX) if isinstance(graph, ir.Graph) else 0
    old = (node.version or opset) < _OLD_SOFTMAX
    axis = node.attributes.get_int("axis", 1 if old else -1) % rank
    return list(range(axis, rank)) if old else [axis]


def _chosen(node: ir.Node, rank: int) -> list[int]:
    return [node.attributes.get_int("axis", 0) % rank]


def _resized(position: int) -> Rule:
    """The rule of a node with the sizes of its output among its inputs.

    Where it names axes, those of channels, which keep their size, are not among them.
    """

    def rule(node: ir.Node, keeps: Keeps) -> Edits | str:
        wanted = counts(keeps.get(node.outputs[0]))
        asked = node.inputs[position] if position < len(node.inputs) else None
        if not wanted or asked is None or "axes" in node.attributes:
            return {}
        sizes = constant(asked)
        if sizes is None:
            return COMPUTED
        if not sizes.size:
            return {}
        rank, new = len(keeps[node.outputs[0]]), sizes.copy()
        for axis, count in wanted.items():
            at = axis - (rank - sizes.size)
            if at >= 0 and sizes[at] > 1:  # not: the rest, the same as before, one
                new[at] = count
        return {position: new}

    return rule


def split(node: ir.Node, keeps: Keeps) -> Edits | str:
    """Sizes of the parts."""
    keep = _kept(node, keeps)
    if keep is None:
        return {}
    axis = node.attributes.get_int("axis", 0) % len(keep)
    if keep[axis].all():
        return {}
    sizes = []
    for output in node.outputs:
        part = keeps.get(output)
        shape = output.shape
        if part is not None and part[axis].size > 1:
            sizes.append(int(part[axis].sum()))
        elif shape is not None and isinstance(shape[axis], int):
            sizes.append(int(str(shape[axis])))
        else:
            return COMPUTED
    if "split" in node.attributes:
        return {"split": sizes}
    return {1: np.array(sizes, np.int64), "num_outputs": None}


def cut(node: ir.Node, keeps: Keeps) -> Edits | str:
    """Bounds of a Slice."""
    keep = _kept(node, keeps)
    if not counts(keep):
        return {}
    assert keep is not None
    starts, ends, axes, steps = [
        constant(node.inputs[at]) if at < len(node.inputs) else None for at in (1, 2, 3, 4)
    ]
    if starts is None or ends is None or (len(node.inputs) > 3 and axes is None):
        return COMPUTED
    named = range(starts.size) if axes is None else [int(axis) % len(keep) for axis in axes]
    first, last = starts.astype(np.int64), ends.astype(np.int64)
    for at, axis in enumerate(named):
        here = keep[axis]
        if here.all():
            continue
        if len(node.inputs) > 4 and (steps is None or int(steps[at]) != 1):
            return "it takes channels in steps"
        start, stop, _ = slice(int(starts[at]), int(ends[at])).indices(here.size)
        first[at], last[at] = here[:start].sum(), here[:stop].sum()
    return {1: first, 2: last}


def gather(node: ir.Node, keeps: Keeps) -> Edits | str:
    """Which entries are taken, counted among those that are left."""
    keep = _kept(node, keeps)
    if keep is None:
        return {}
    axis = node.attributes.get_int("axis", 0) % len(keep)
    here = keep[axis]
    if here.all():
        return {}
    index = constant(node.inputs[1])
    if index is None or index.ndim > 1:
        return COMPUTED
    index = index % here.size
    if index.ndim == 0 and not here[index]:
        return "it takes a channel that would go"
    left = np.cumsum(here) - 1
    return {1: left[index[here[index]] if index.ndim else index].astype(np.int64)}


def shape(node: ir.Node, keeps: Keeps) -> Edits | str:
    """Sizes may be read as long as nobody looks at those that change."""
    cut_axes = counts(_kept(node, keeps))
    start = node.attributes.get_int("start", 0)
    for reader, _ in node.outputs[0].uses() if cut_axes else ():
        index = constant(reader.inputs[1]) if is_op(reader, "Gather") else None
        rank = len(keeps[node.inputs[0]])  # type: ignore[index]
        if index is None or any((int(at) + start) % rank in cut_axes for at in index.ravel()):
            return COMPUTED
    return COMPUTED if cut_axes and node.outputs[0].is_graph_output() else {}


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("ArgMax", "ArgMin"), _over(_chosen)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _over(_normalised)),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _over(_softmax)),
    "Conv": convolution,
    "Expand": _resized(1),
    "Gather": gather,
    "MatMul": product,
    "Reshape": _resized(1),
    "Resize": _resized(3),
    "Shape": shape,
    "Size": lambda node, keeps: COMPUTED if counts(_kept(node, keeps)) else {},
    "Slice": cut,
    "Split": split,
}
"""Op → its rule. Sums along axes are the ops whose names begin with Reduce; others only follow."""

_reduction = _over(_reduced)


def rule_of(node: ir.Node) -> Rule:
    """The rule of a node of a standard operator."""
    return _reduction if node.op_type.startswith("Reduce") else RULES.get(node.op_type, follows)


__all__ = ["Edits", "Keep", "Keeps", "counts", "rule_of"]
