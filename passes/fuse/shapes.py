"""Proofs that two values always have the same shape, dynamic dimensions included.

ONNX shape inference gives every dimension it cannot compute a name of its own, so it never knows
two of them equal. Here a dimension is a *term*: a number, a name the model's author gave, or how it
is computed from other terms. Equal terms are equal numbers in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from sparsecc import ops
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse import numbers, shape_rules
from sparsecc.passes.fuse.terms import Term, Terms, over, times

Rule = Callable[[ir.Node, list[Terms | None]], Terms | None]


class Shapes:
    """Knows which values of one model provably have equal shapes."""

    def __init__(self, model: ir.Model) -> None:
        self._terms: dict[ir.Value, Terms | None] = {}
        self._numbers: dict[ir.Value, Terms] = {}
        for node in model.graph.all_nodes():
            self._visit(node)

    def equal(self, a: ir.Value, b: ir.Value) -> bool:
        """Whether `a` and `b` have the same shape in every run."""
        one, other = self._of(a), self._of(b)
        if one is None or other is None or len(one) != len(other):
            return False
        return one == other

    def terms(self, value: ir.Value) -> Terms | None:
        """A term for each dimension of `value`; None where not even the rank is known."""
        return self._of(value)

    def numbers(self, value: ir.Value | None) -> Terms | None:
        """What a tensor of whole numbers holds, in order, where all of it is known."""
        if value is None:
            return None
        return self._numbers[value] if value in self._numbers else numbers.constant_terms(value)

    def note(self, value: ir.Value, terms: Terms) -> None:
        """Note the terms of a new value."""
        self._terms[value] = terms

    def replaced(self, old: ir.Value, new: ir.Value) -> None:
        """Note that `new` has taken the place of `old`."""
        self._terms[new] = self._of(old)

    def _of(self, value: ir.Value) -> Terms | None:
        if value in self._terms:
            return self._terms[value]
        shape = value.shape
        opaque = None if shape is None else tuple((value, axis) for axis in range(len(shape)))
        return None if opaque is None else tuple(_declared(value, opaque))

    def _visit(self, node: ir.Node) -> None:
        """Terms of the outputs, in an order in which those of the inputs are known."""
        if not node.outputs:
            return
        inputs = [None if x is None else self._of(x) for x in node.inputs]
        held = numbers.held_by(node, inputs, [self.numbers(x) for x in node.inputs])
        if held is not None:
            self._numbers[node.outputs[0]] = held
        several = _SEVERAL.get(node.op_type) if is_op(node, node.op_type) else None
        if several is not None:
            for output, part in zip(node.outputs, several(node, inputs), strict=True):
                self._terms[output] = part
            return
        if is_op(node, "Range", "ConstantOfShape"):
            bounds = [self.numbers(x) for x in node.inputs]
            self._keep(node.outputs[0], _counted(bounds) if len(bounds) > 1 else bounds[0])
            return
        if is_op(node, "Reshape", "Expand"):
            sizes = self.numbers(node.inputs[1])
            shaped = _reshape if node.op_type == "Reshape" else _expand
            self._keep(node.outputs[0], shaped(node, inputs[0], sizes))
        elif (rule := _rule(node)) is not None:
            self._keep(node.outputs[0], rule(node, inputs))

    def _keep(self, output: ir.Value, terms: Terms | None) -> None:
        agrees = output.shape is None or (terms is not None and len(terms) == len(output.shape))
        if terms is not None and agrees:
            # A number or a name that is declared travels on: it survives ops without a rule.
            self._terms[output] = tuple(_declared(output, terms))


def _declared(value: ir.Value, otherwise: Terms) -> list[Term]:
    """Numbers and proper names from the declared shape, and terms where it has none."""
    if value.shape is None:
        return list(otherwise)
    return [
        dim if isinstance(dim, int) else _author_name(dim) or term
        for dim, term in zip(value.shape, otherwise, strict=True)
    ]


def _author_name(dim: ir.SymbolicDim) -> Term | None:
    """The name, unless it stands for "unknown", as "?", "-1" and the ones onnx makes up do.

    torch writes the product of two open sizes as such.
    """
    name = dim.value
    if name is None or name.startswith("unk__") or not name[:1].isalnum() or name.isdigit():
        return None
    parts = name.split("*")
    if all(part.isidentifier() or part.isdigit() for part in parts):
        return times(*(int(part) if part.isdigit() else part for part in parts))
    return name if name[:1].isalpha() else None


def _rule(node: ir.Node) -> Rule | None:
    if ops.is_sparse(node):
        return _SPARSE[ops.parse(node.op_type).base]
    if ops.is_attention(node) or ops.is_mixture(node):
        return _same
    return _STANDARD.get(node.op_type) if is_op(node, node.op_type) else None


def _same(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    return inputs[0]


def _broadcast(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    known = [terms for terms in inputs if terms is not None]
    if len(known) < len(inputs):
        return None
    rank = max(len(terms) for terms in known)
    aligned = [(1,) * (rank - len(terms)) + terms for terms in known]
    return tuple(_broadcast_dim(set(dims)) for dims in zip(*aligned, strict=True))


def _broadcast_dim(dims: set[Term]) -> Term:
    dims = dims - {1}
    numbers = [dim for dim in dims if isinstance(dim, int)]
    if numbers:
        return numbers[0]
    if len(dims) <= 1:
        return next(iter(dims), 1)
    return ("broadcast", frozenset(dims))


def _window(node: ir.Node, spatial: Terms, kernel: list[int]) -> Terms | None:
    """Spatial terms after a kernel slides over them."""
    attributes, axes = node.attributes, len(spatial)
    rounds_up = bool(attributes.get_int("ceil_mode", 0))
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or rounds_up or len(kernel) != axes:
        return None
    strides = list(attributes.get_ints("strides", [1] * axes))
    dilations = list(attributes.get_ints("dilations", [1] * axes))
    pads = list(attributes.get_ints("pads", [0] * 2 * axes))
    found = []
    for axis, term in enumerate(spatial):
        margin = pads[axis] + pads[axis + axes] - dilations[axis] * (kernel[axis] - 1) - 1
        found.append(_slide(term, margin, strides[axis]))
    return tuple(found)


def _slide(term: Term, margin: int, stride: int) -> Term:
    """floor((term + margin) / stride) + 1."""
    if isinstance(term, int):
        return (term + margin) // stride + 1
    return term if (margin, stride) == (-1, 1) else ("slide", term, margin, stride)


def _conv(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, weight = inputs[:2]
    if x is None or weight is None or not all(isinstance(dim, int) for dim in weight):
        return None
    spatial = _window(node, x[2:], [int(str(dim)) for dim in weight[2:]])
    return None if spatial is None else (x[0], weight[0], *spatial)


def _pool(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x = inputs[0]
    kernel = node.attributes.get_ints("kernel_shape")
    spatial = None if x is None or kernel is None else _window(node, x[2:], list(kernel))
    return None if spatial is None or x is None else (*x[:2], *spatial)


def _global_pool(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x = inputs[0]
    return None if x is None else (*x[:2], *(1,) * (len(x) - 2))


def _transpose(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x = inputs[0]
    if x is None:
        return None
    order = node.attributes.get_ints("perm", list(reversed(range(len(x)))))
    return tuple(x[axis] for axis in order)


def _reshape(node: ir.Node, x: Terms | None, sizes: Terms | None) -> Terms | None:
    if x is None or sizes is None:
        return None
    zero_is_a_size = node.attributes.get_int("allowzero", 0)
    if zero_is_a_size and 0 in sizes:
        return None
    if any(size == 0 and at >= len(x) for at, size in enumerate(sizes)):
        return None
    copied = {at for at, size in enumerate(sizes) if size == 0}
    left = [term for at, term in enumerate(x) if at not in copied]
    taken = times(*(size for size in sizes if size not in (0, -1)))
    rest = over(times(*left), taken) if taken else None
    rest = ("rest", tuple(left), taken) if rest is None else rest
    return tuple(
        x[at] if size == 0 else rest if size == -1 else size for at, size in enumerate(sizes)
    )


def _counted(bounds: list[Terms | None]) -> Terms | None:
    """Of a Range: from nothing to a number, in ones."""
    start, limit, step = bounds
    return limit if (start, step) == ((0,), (1,)) else None


def _expand(node: ir.Node, x: Terms | None, sizes: Terms | None) -> Terms | None:
    return None if sizes is None else _broadcast(node, [x, sizes])


def _split(node: ir.Node, inputs: list[Terms | None]) -> list[Terms | None]:
    """Terms of every part."""
    x, parts = inputs[0], len(node.outputs)
    if x is None:
        return [None] * parts
    axis = node.attributes.get_int("axis", 0) % len(x)
    second = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    given = node.attributes.get_ints("split") if second is None else second.tolist()
    whole = x[axis]
    if given is None and isinstance(whole, int):
        most = -(-whole // parts)
        given = [min(most, whole - most * at) for at in range(parts)]
    if given is None or len(given) != parts:
        return [None] * parts
    return [(*x[:axis], int(size), *x[axis + 1 :]) for size in given]


def _squeeze(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, axes = inputs[0], _axes(node)
    if x is None or axes is None:
        return None
    gone = {axis % len(x) for axis in axes}
    return tuple(term for at, term in enumerate(x) if at not in gone)


def _reduce(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, axes = inputs[0], _axes(node)
    if x is None or not axes:
        return None
    gone = {axis % len(x) for axis in axes}
    if node.attributes.get_int("keepdims", 1):
        return tuple(1 if at in gone else term for at, term in enumerate(x))
    return tuple(term for at, term in enumerate(x) if at not in gone)


def _axes(node: ir.Node) -> list[int] | None:
    second = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    given = node.attributes.get_ints("axes")
    if second is None:
        return None if given is None else list(given)
    return [int(axis) for axis in second.reshape(-1)]


def _flatten(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x = inputs[0]
    if x is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis += len(x) * (axis < 0)
    return times(*x[:axis]), times(*x[axis:])


def _slice(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    """Of axes whose size is a number, by constants."""
    x = inputs[0]
    arrays = [constant(value) for value in node.inputs[1:]]
    if x is None or len(arrays) < 2 or any(array is None for array in arrays):
        return None
    lists = [array.reshape(-1).tolist() for array in arrays if array is not None]
    starts, ends = lists[:2]
    axes = lists[2] if len(lists) > 2 else list(range(len(starts)))
    steps = lists[3] if len(lists) > 3 else [1] * len(starts)
    found = list(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = found[axis]
        if not isinstance(whole, int):
            return None
        found[axis] = len(range(*slice(start, end, step).indices(whole)))
    return tuple(found)


def _unsqueeze(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, axes = inputs[0], _axes(node)
    if x is None or axes is None:
        return None
    rank = len(x) + len(axes)
    ones = {axis % rank for axis in axes}
    left = iter(x)
    return tuple(1 if axis in ones else next(left) for axis in range(rank))


def _concat(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    known = [terms for terms in inputs if terms is not None]
    axis = node.attributes.get_int("axis", 0)
    if len(known) < len(inputs) or not known or not known[0]:
        return None
    parts = [terms[axis] for terms in known]
    numbers = [part for part in parts if isinstance(part, int)]
    total: Term = sum(numbers) if len(numbers) == len(parts) else ("sum", tuple(parts))
    joined = list(known[0])
    joined[axis] = total
    return tuple(joined)


def _matmul(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    a, b = inputs[:2]
    if not a or not b or len(b) < 2 or len(a) < len(b):
        return None
    if len(b) == 2:
        return (*a[:-1], b[-1])
    return (*a[:-1], b[-1]) if len(a) == len(b) and a[:-2] == b[:-2] else None


def _gemm(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    a, b = inputs[:2]
    if not a or not b or node.attributes.get_int("transA", 0) != 0:
        return None
    return a[0], b[1 - int(node.attributes.get_int("transB", 0))]


def _gather(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    data, indices = inputs[:2]
    if data is None or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % max(1, len(data))
    return (*data[:axis], *indices, *data[axis + 1 :])


def _resize(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x = inputs[0]
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if x is None or scales is None or scales.size != len(x):
        return None
    factors: list[Any] = scales.tolist()
    return tuple(
        term if factor == 1 else ("scale", term, factor)
        for term, factor in zip(x, factors, strict=True)
    )


def _sparse_conv(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, shape = inputs[0], ops.read_packed(node).shape
    spatial = None if x is None else _window(node, x[2:], list(shape[1:3]))
    return None if spatial is None or x is None else (x[0], shape[0], *spatial)


def _sparse_matmul(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x = inputs[0]
    return None if not x else (*x[:-1], ops.read_packed(node).shape[0])


_KEEPS_SHAPE = """
    Abs BatchNormalization Cast Clip Dropout Elu Erf Exp Gelu HardSigmoid HardSwish Identity
    InstanceNormalization IsNaN LayerNormalization LeakyRelu Log LogSoftmax Mish Neg Not
    Reciprocal Relu ScatterElements ScatterND Selu Sigmoid Softmax Softplus Sqrt Swish Tanh Trilu
"""
_REDUCES = "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
_BROADCASTS = """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Or PRelu Pow Sub Where
"""

_STANDARD: Mapping[str, Rule] = {
    **dict.fromkeys(_KEEPS_SHAPE.split(), _same),
    **dict.fromkeys(_BROADCASTS.split(), _broadcast),
    **dict.fromkeys(_REDUCES.split(), _reduce),
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv,
    "Einsum": shape_rules.einsum,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Resize": _resize,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": shape_rules.tiled,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
_SEVERAL = {"Split": _split, "TopK": shape_rules.best_ones}
"""Of ops with more than one output."""
_SPARSE: Mapping[str, Rule] = {"SparseConv": _sparse_conv, "SparseMatMul": _sparse_matmul}
