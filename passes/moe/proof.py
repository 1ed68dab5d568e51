"""Whether a part of a model is a mixture of experts, found by running it.

Between two values that are given stand products with constants, activations, and choices that
compare experts with constants. Where such a part and a mixture of experts agree on random tokens
and gates for every expert, also for tokens without and experts with all of them, they are the
same function: what is linear agrees everywhere or almost nowhere, activations are told apart by
points where they bend and points far out, and ops with which the fate of a token could depend on
others are not let in (:data:`SUSPECT`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.errors import BackendError
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, number_of
from sparsecc.passes.moe.block import Block
from sparsecc.passes.moe.write import Experts

Array = NDArray[Any]
_COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_BOUNDS = ("Clip", "Max", "Min")
_EVERYTHING = 1 << 31
"""Bounds beyond stand for the end of an axis."""
SUSPECT = {
    "CumSum": "places in a queue: experts that are full drop tokens",
    "TopK": "tokens that are chosen by experts",
    "ArgMax": "tokens that are chosen by experts",
    **dict.fromkeys(_COMPARISONS, "a comparison: experts that are full drop tokens"),
    "If": "a branch",
    "Loop": "a loop",
    "Scan": "a loop",
    "RandomNormal": "noise",
    "RandomNormalLike": "noise",
    "RandomUniform": "noise",
    "RandomUniformLike": "noise",
    "Bernoulli": "noise",
    "Multinomial": "noise",
}
"""Ops with which a mixture could be something else than it is on a few tokens, and what they do."""
_SIZE = 3
"""Number of an open dimension."""
NEAR, FAR = 3.0, 1e6
"""Standard deviations of what goes into activations: where they bend, and far out."""
_TOLERANCE = 2e-5
"""Of the largest magnitude: what float32 sums round off, and constants such as 0.70710677."""
_SMALL_BYTES = 1024


@dataclass(frozen=True)
class Probe:
    """Numbers for the values that a block is given.

    Attributes:
        x: Tokens ``[T, d]``.
        chosen: Experts ``[T, k]``.
        gates: ``[T, k]``, or ``[T, E]``.
    """

    x: NDArray[np.float32]
    chosen: NDArray[np.int64]
    gates: NDArray[np.float32]


class Sizes:
    """Numbers for the sizes of a model, open ones included."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._numbers: dict[Term, int] = {}

    def of(self, value: ir.Value) -> tuple[int, ...] | None:
        """The dimensions of a value."""
        terms = self._shapes.terms(value)
        if terms is None:
            return None
        return tuple(number_of(t, lambda s: self._numbers.setdefault(s, _SIZE)) for t in terms)


def suspect(block: Block, tokens: int) -> str | None:
    """Why running a block on so many tokens would not prove what it does on more."""
    for node in block.nodes:
        if is_op(node, *SUSPECT):
            return SUSPECT[node.op_type]
        x = node.inputs[0] if node.inputs else None
        counts = is_op(node, *_BOUNDS) and x is not None and x.dtype != ir.DataType.FLOAT
        if counts or (is_op(node, "Slice") and _cuts_more(node, tokens)):
            return "a limit on the number of tokens"
    return None


def compares_floats(node: ir.Node) -> bool:
    """Whether what a node gives hangs on how large its inputs are: random ones do not show it."""
    x = node.inputs[0] if node.inputs else None
    return is_op(node, *_COMPARISONS) and (x is None or x.dtype == ir.DataType.FLOAT)


def _cuts_more(node: ir.Node, tokens: int) -> bool:
    """Whether a Slice may cut an open axis at a place that so many rows do not come to."""
    x, bounds = node.inputs[0], [constant(value) for value in node.inputs[1:4]]
    if x is None or x.shape is None:
        return True
    found = [b.reshape(-1).tolist() if b is not None else [] for b in bounds]
    starts, ends, axes = [*found, [], [], []][:3]
    axes = axes or list(range(len(starts)))
    return any(
        tokens < abs(bound) <= _EVERYTHING and not isinstance(x.shape[axis], int)
        for places in (starts, ends)
        for bound, axis in zip(places, axes, strict=False)
    )


class Runner:
    """Runs a block in ONNX Runtime.

    Raises:
        BackendError: ONNX Runtime cannot load or run it.
    """

    def __init__(self, block: Block, result: ir.Value, opsets: Mapping[str, int]) -> None:
        self._block, self._result = block, result
        made = {output for node in block.nodes for output in node.outputs}
        reads = {v for node in block.nodes for v in node.inputs if v is not None} - made
        held = {v: array for v in reads if (array := constant(v)) is not None}
        for value in (*block.given, *block.sized):
            held.pop(value, None)
        small = {v for v, array in held.items() if array.nbytes <= _SMALL_BYTES}
        self._large = {_name(v): array for v, array in held.items() if v not in small}
        outside = [*block.given, *block.sized, *(v for v in held if v not in small)]
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in block.nodes],
            "block",
            [info(_name(value), _kind(value, held), None) for value in outside],
            [info(_name(result), onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(held[v], _name(v)) for v in small],
        )
        imports = [onnx.helper.make_opsetid(domain, n) for domain, n in opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
        self._session = open_session(model.SerializeToString())

    def __call__(self, feeds: Mapping[ir.Value, Array]) -> Array:
        """The result for numbers of all that the block is given."""
        named = {_name(value): array for value, array in feeds.items()}
        try:
            (made,) = self._session.run([_name(self._result)], named | self._large)
        except Exception as error:
            raise BackendError(f"a part of the model does not run: {error}") from error
        return np.asarray(made)


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _kind(value: ir.Value, held: Mapping[ir.Value, Array]) -> int:
    if value in held:
        return int(onnx.helper.np_dtype_to_tensor_dtype(held[value].dtype))
    return int(value.dtype or ir.DataType.INT64)


def feeds(
    block: Block, sizes: Sizes, given: Mapping[ir.Value, Array], rng: np.random.Generator
) -> dict[ir.Value, Array] | None:
    """Numbers for all that a block reads; random ones where none are given.

    None where a size is not known, or what is given has another.
    """
    found: dict[ir.Value, Array] = {}
    for value in (*block.given, *block.sized):
        source = value if value in block.given else _measured(value)
        dims = sizes.of(source)
        if dims is None:
            return None
        if value in block.sized:
            node = value.producer()
            assert node is not None
            read = node.attributes
            ends = read.get_int("start", 0), read.get_int("end", len(dims))
            found[value] = np.array(dims[ends[0] : ends[1]], np.int64)
        elif value in given:
            if given[value].size != math.prod(dims):
                return None  # the sizes that were taken for open ones do not go together
            found[value] = given[value].reshape(dims)
        elif value.dtype == ir.DataType.FLOAT:
            found[value] = rng.uniform(0.1, 1, dims).astype(np.float32)
        else:
            return None
    return found


def _measured(shape: ir.Value) -> ir.Value:
    node = shape.producer()
    assert node is not None
    assert node.inputs[0] is not None
    return node.inputs[0]


def choices(
    tokens: int, count: int, k: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Experts ``[tokens, k]``, distinct for each token, that come to all, and all tokens to k."""
    start = 0
    while start < count:
        at = start + np.arange(tokens * k).reshape(tokens, k)
        rows = rng.permutation(count)[at % count] if k <= count else at
        yield rng.permuted(rows, axis=1).astype(np.int64)
        start += tokens * k
    yield np.tile(rng.permutation(count)[:k], (tokens, 1)).astype(np.int64)


def tokens_for(
    first: NDArray[np.float32], tokens: int, spread: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Tokens whose products with a weight ``[f, d]`` have a standard deviation of `spread`."""
    x = rng.standard_normal((tokens, first.shape[1])).astype(np.float32)
    deviation = float(np.std(x @ first.T))
    return x * np.float32(spread / max(deviation, 1e-20))


def agrees(made: Array, wanted: Array) -> bool:
    """Whether two results are the same up to rounding."""
    difference = np.abs(made - wanted).max(initial=0)  # of NaN: not at most anything
    return bool(difference <= _TOLERANCE * np.abs(wanted).max(initial=1e-30))


def meaning(experts: Experts, probe: Probe, rows: Array, *, on_tokens: bool) -> Array:
    """What a mixture of experts makes of a probe.

    Args:
        experts: What they compute.
        probe: With gates for those that were chosen.
        rows: The tokens of it that are looked at.
        on_tokens: Whether gates multiply what goes into an expert, not what comes out.
    """
    x, chosen, gates = probe.x[rows], probe.chosen[rows], probe.gates[rows]
    if not on_tokens:
        return ops.mixture(experts.activation, x, chosen, gates, experts.weights)
    ones = np.ones((len(x), 1), np.float32)
    parts = [
        ops.mixture(experts.activation, x * g[:, None], e[:, None], ones, experts.weights)
        for e, g in zip(chosen.T, gates.T, strict=True)
    ]
    return np.asarray(sum(parts))
