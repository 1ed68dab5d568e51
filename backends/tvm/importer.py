"""Nodes of a graph as a Relax function, through TVM's importer of ONNX."""

from __future__ import annotations

import contextlib
import io
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsecc.backends.tvm.agreement import agreed
from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.operators import OPERATORS
from sparsecc.backends.tvm.symbols import Symbols
from sparsecc.errors import BackendError, first_line
from sparsecc.passes.edit import STANDARD, constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Terms

TAKES_SIZES = {"Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Slice": (1, 2)}
"""Operands that TVM's importer reads as sizes with variables in them."""


@dataclass(frozen=True, eq=False)
class Call:
    """Nodes that a function of the library computes.

    Attributes:
        name: Of the function.
        inputs: What it reads.
        outputs: What it makes.
    """

    name: str
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


@dataclass(frozen=True, eq=False)
class Made:
    """Nodes in the place of which something else is written.

    Attributes:
        inputs: What they read.
        outputs: What they make.
        write: From the builder of the function and the operands to the results.
    """

    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    write: Callable[[Any, list[Any]], list[Any]]


Item = ir.Node | Call | Made


@dataclass(frozen=True)
class Imported:
    """A Relax function and what its parameters are.

    Attributes:
        module: Holds the function ``main``.
        variables: Of the open sizes; each is a dimension of some parameter.
        inputs: Values of the graph, one for each parameter.
        outputs: Values of the graph, one for each result.
        equal: Pairs of sizes that every run must find equal.
    """

    module: Any
    variables: tuple[Any, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    equal: tuple[tuple[Any, Any], ...] = ()


def import_nodes(
    nodes: Sequence[Item],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    shapes: Shapes,
    opset: int,
    same: str = "",
) -> Imported:
    """Nodes as one Relax function.

    Args:
        nodes: Nodes, and what stands in the place of some, in an order in which they can run.
        inputs: What they read from outside, besides constants and sizes that `shapes` knows.
        outputs: What is wanted of them.
        shapes: Of the model.
        opset: Of the model's standard ops.
        same: Name of a function that copies a tensor and checks that its copy has its sizes, for
            sizes that nothing proves equal; without it the caller has to.

    Raises:
        BackendError: TVM has no such op, or not this form of it; names the node.
    """
    return _Importer(inputs, shapes, opset, same).run(nodes, outputs)


class _Importer:
    def __init__(self, inputs: Sequence[ir.Value], shapes: Shapes, opset: int, same: str) -> None:
        self.tvm, self.same = load(), same
        self.inputs, self.shapes = tuple(inputs), shapes
        self.symbols = Symbols([self._terms(value) for value in inputs])
        front = self.tvm.relax.frontend.onnx.onnx_frontend
        self.base = front.ONNXGraphImporter({}, "float32")
        self.base.opset = opset
        self.bb = self.base.bb
        self.equal: list[tuple[Any, Any]] = []

    def _terms(self, value: ir.Value) -> Terms:
        terms = self.shapes.terms(value)
        if terms is None:
            raise BackendError(
                f"the rank of {value.name!r} is not known",
                fix="export the model with shapes, or run onnx.shape_inference on it",
            )
        return terms

    def run(self, nodes: Sequence[Item], outputs: Sequence[ir.Value]) -> Imported:
        relax = self.tvm.relax
        for at, value in enumerate(self.inputs):
            self.base._nodes[value.name] = relax.Var(f"in{at}", self._kind(value))
        parameters = [self.base._nodes[value.name] for value in self.inputs]
        with self.bb.function("main", params=parameters):
            with self._last_block_ended(), self.bb.dataflow():
                for each in nodes:
                    self._item(each)
                made = [self._operand(value, None) for value in outputs]
                result = self.bb.emit_output(relax.Tuple(made))
            self.bb.emit_func_output(result)
        variables = tuple(self.symbols.variables.values())
        ends = self.inputs, tuple(outputs)
        return Imported(self.bb.get(), variables, *ends, tuple(self.equal))

    @contextlib.contextmanager
    def _last_block_ended(self) -> Iterator[None]:
        """Where a node is refused, the block that follows is closed: TVM warns of open ones."""
        try:
            yield
        except BaseException:
            self.bb._end_block()
            raise

    def _item(self, item: Item) -> None:
        if isinstance(item, Call):
            self._call(item)
        elif isinstance(item, Made):
            made = item.write(self.bb, [self._operand(value, None) for value in item.inputs])
            names = [value.name for value in item.outputs]
            self.base._nodes |= dict(zip(names, made, strict=True))
        else:
            self._node(item)

    def _call(self, call: Call) -> None:
        """A call of a function by name, which writes into tensors that the caller made."""
        kinds = [self._kind(value) for value in call.outputs]
        operands = [self._operand(value, None) for value in call.inputs]
        relax = self.tvm.relax
        made = self.bb.emit(relax.call_dps_packed(call.name, relax.Tuple(operands), kinds))
        for at, value in enumerate(call.outputs):
            one = made if len(kinds) == 1 else self.bb.emit(relax.TupleGetItem(made, at))
            self.base._nodes[value.name] = one

    def _kind(self, value: ir.Value) -> Any:
        dims = [self.symbols.expression(term) for term in self._terms(value)]
        if any(dim is None for dim in dims):
            raise BackendError(
                f"the shape of {value.name!r} does not follow from the inputs",
                fix="use the backend onnxruntime or bundle, which find shapes as they run",
            )
        return self.tvm.relax.TensorType(dims, dtype_of(value))

    def _node(self, node: ir.Node) -> None:
        try:
            self._convert(node)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(
                f"TVM cannot take this {node.op_type}: {first_line(error)}",
                node=node.name,
                fix="compile for a target that ONNX Runtime runs on, or write the layer otherwise",
            ) from error

    def _convert(self, node: ir.Node) -> None:
        takes = TAKES_SIZES.get(node.op_type, ()) if node.domain in STANDARD else ()
        operands = [
            None if value is None else self._operand(value, node if at in takes else None)
            for at, value in enumerate(node.inputs)
        ]
        if node.domain in STANDARD:
            variables = tuple(self.symbols.variables.values())
            operands, equal = agreed(self.bb, node, operands, variables, self.same)
            self.equal += equal
        own = OPERATORS.get(node.op_type) if node.domain in STANDARD else None
        if own is not None:
            made = own(self, node, operands)
        elif node.domain in STANDARD:
            made = self._standard(node, operands)
        else:
            raise BackendError(
                f"there is no kernel for {node.domain}::{node.op_type}",
                node=node.name,
                fix="compile the model from its original file",
            )
        results = made if isinstance(made, list) else [made]
        for value, result in zip(node.outputs, results, strict=False):
            self.base._nodes[value.name] = result
            self._learn(value, result)

    def _learn(self, value: ir.Value, made: Any) -> None:
        """Sizes of a value that only TVM knows, for what the library makes of it."""
        terms = self.shapes.terms(value)
        shape = getattr(getattr(made, "ty", None), "shape", None)
        if terms is not None and shape is not None and len(shape) == len(terms):
            self.symbols.learn(terms, list(shape))

    def _standard(self, node: ir.Node, operands: list[Any]) -> list[Any]:
        """What TVM's own converter makes of a node."""
        known, self.base._nodes = self.base._nodes, {}
        names = [f"operand{at}" for at in range(len(operands))]
        self.base._nodes = dict(zip(names, operands, strict=True))
        proto = ir.serde.serialize_node(node)
        del proto.input[:]
        proto.input.extend(
            "" if operand is None else name for name, operand in zip(names, operands, strict=True)
        )
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.base._construct_nodes(types.SimpleNamespace(node=[proto]))
            return [self.base._nodes.get(value.name) for value in node.outputs]
        finally:
            self.base._nodes = known

    def _operand(self, value: ir.Value, sizes_of: ir.Node | None) -> Any:
        """A value inside the function: made there, a constant, or sizes."""
        if value.name in self.base._nodes:
            return self.base._nodes[value.name]
        array = constant(value)
        if array is not None:
            return self.constant(array)
        held = self.shapes.numbers(value)
        terms = None if held is None else [self.symbols.expression(term) for term in held]
        if terms is None or any(term is None for term in terms):
            maker = value.producer()
            raise BackendError(
                f"the numbers in {value.name!r} depend on data",
                node=None if maker is None else maker.name,
                fix="export the model with fixed sizes there",
            )
        if sizes_of is not None:
            return self.tvm.relax.ShapeExpr(terms)
        return self.tensor_of(terms, dtype_of(value), 0 if _is_scalar(value) else 1)

    def constant(self, array: Any) -> Any:
        """A constant of the function."""
        plain = np.ascontiguousarray(array).reshape(np.shape(array))
        return self.tvm.relax.const(plain, plain.dtype.name)

    def tensor_of(self, terms: Sequence[Any], dtype: str, rank: int) -> Any:
        """A tensor ``[n]``, or ``[]``, of whole numbers that are computed from sizes."""
        tirx, te = self.tvm.tirx, self.tvm.te

        def tensor(numbers: Sequence[Any]) -> Any:
            def element(*index: Any) -> Any:
                chosen = numbers[-1]
                for at in reversed(range(len(numbers) - 1)):
                    chosen = tirx.Select(index[0] == at, numbers[at], chosen)
                return chosen.astype(dtype)

            return te.compute((len(numbers),) * rank, element, name="sizes")

        return self.bb.emit_te(tensor, list(terms))


def _is_scalar(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 0


def dtype_of(value: ir.Value) -> str:
    """TVM's and numpy's name of a value's type.

    Raises:
        BackendError: It is not known, or not one that arrays have.
    """
    if value.dtype is None:
        raise BackendError(f"the type of {value.name!r} is not known", fix="export it with types")
    return str(value.dtype.numpy().name)
