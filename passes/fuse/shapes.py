"""Proofs that two values always have the same shape, dynamic dimensions included.

ONNX shape inference gives every dimension it cannot compute a name of its own, so it never knows
two of them equal. Here a dimension is a *term*: a number, a name the model's author gave, or how it
is computed from other terms. Equal terms are equal numbers in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import onnx_ir as ir

from sparsecc import ops
from sparsecc.passes.edit import constant, is_op

Term = Hashable
Terms = tuple[Term, ...]
Rule = Callable[[ir.Node, list[Terms | None]], Terms | None]


class Shapes:
    """Knows which values of one model provably have equal shapes."""

    def __init__(self, model: ir.Model) -> None:
        self._terms: dict[ir.Value, Terms | None] = {}
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
        rule = _rule(node)
        if rule is None or not node.outputs:
            return
        terms = rule(node, [None if x is None else self._of(x) for x in node.inputs])
        output = node.outputs[0]
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


def _author_name(dim: ir.SymbolicDim) -> str | None:
    """The name, unless it stands for "unknown", as "?", "-1" and the ones onnx makes up do."""
    name = dim.value
    proper = name is not None and not name.startswith("unk__") and name[:1].isalpha()
    return name if proper else None


def _rule(node: ir.Node) -> Rule | None:
    if ops.is_sparse(node):
        return _SPARSE[ops.parse(node.op_type).base]
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


def _reshape(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, wanted = inputs[0], constant(node.inputs[1])
    if x is None or wanted is None:
        return None
    sizes: list[int] = wanted.reshape(-1).tolist()
    zero_is_a_size = node.attributes.get_int("allowzero", 0)
    if zero_is_a_size and 0 in sizes:
        return None
    if any(size == 0 and at >= len(x) for at, size in enumerate(sizes)):
        return None
    copied = {at for at, size in enumerate(sizes) if size == 0}
    taken = math.prod(size for size in sizes if size > 0)
    rest = _rest([term for at, term in enumerate(x) if at not in copied], taken)
    return tuple(
        x[at] if size == 0 else rest if size < 0 else size for at, size in enumerate(sizes)
    )


def _rest(terms: list[Term], taken: int) -> Term:
    """How many elements are left for one dimension where others take `taken` of them."""
    numbers = math.prod(term for term in terms if isinstance(term, int))
    others = [term for term in terms if not isinstance(term, int)]
    if taken and numbers % taken == 0 and not others:
        return numbers // taken
    if len(others) == 1 and numbers == taken:
        return others[0]
    return ("rest", tuple(terms), taken)


def _unsqueeze(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    x, second = inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    given = node.attributes.get_ints("axes")
    axes = given if second is None else second.reshape(-1).tolist()
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
    return (*a[:-2], b[-1]) if len(a) == len(b) and a[:-2] == b[:-2] else None


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
    BatchNormalization Cast Clip Dropout Elu Erf Exp Gelu HardSigmoid HardSwish Identity
    InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax Mish Neg Reciprocal Relu
    Selu Sigmoid Softmax Softplus Sqrt Swish Tanh
"""
_BROADCASTS = "Add Div Max Min Mul PRelu Pow Sub"

_STANDARD: Mapping[str, Rule] = {
    **dict.fromkeys(_KEEPS_SHAPE.split(), _same),
    **dict.fromkeys(_BROADCASTS.split(), _broadcast),
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv,
    "Gather": _gather,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Reshape": _reshape,
    "Resize": _resize,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
_SPARSE: Mapping[str, Rule] = {"SparseConv": _sparse_conv, "SparseMatMul": _sparse_matmul}
