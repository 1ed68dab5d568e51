"""From a Relax function to a chain of loop nests over named buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sparsecc.backends.tvm.importer import Imported
from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.backends.tvm.symbols import variables_in
from sparsecc.errors import BackendError, first_line


@dataclass(eq=False)
class Buffer:
    """A value of the chain.

    Attributes:
        dtype: numpy's name; booleans are bytes.
        dims: Expressions over the function's variables.
        array: What a constant holds.
    """

    dtype: str
    dims: tuple[Any, ...]
    array: NDArray[Any] | None = None


@dataclass(frozen=True)
class Call:
    """One function of the module on buffers.

    Attributes:
        function: A ``PrimFunc`` whose parameters are buffers alone, in the order of `buffers`;
            sizes in it are expressions over the chain's variables.
        buffers: What it reads, then what it makes.
        made: How many it makes.
        name: What it computes, for people.
    """

    function: Any
    buffers: tuple[Buffer, ...]
    made: int
    name: str


@dataclass
class Chain:
    """Calls in the order they run.

    Attributes:
        variables: Of the open sizes.
        inputs: One for each parameter of the function.
        outputs: One for each result; several may be the same, an input, or a constant.
        equal: Pairs of sizes that a run must find equal.
        calls: In order.
    """

    variables: tuple[Any, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    equal: tuple[tuple[Any, Any], ...] = ()
    calls: list[Call] = field(default_factory=list)


def legalized(module: Any, target: Any, where: str) -> Any:
    """Ops as loops, fused where they only pass elements on.

    Args:
        module: Holds a Relax function.
        target: What TVM generates code for.
        where: The nodes it is of, for errors.

    Raises:
        BackendError: TVM cannot.
    """
    tvm = load()
    step = tvm.relax.transform
    passes = [
        step.DecomposeOpsForInference(),
        step.CanonicalizeBindings(),
        step.FoldConstant(),
        step.LegalizeOps(),
        step.AnnotateTIROpPattern(),
        step.FoldConstant(),
        step.FuseOps(),
        step.FuseTIR(),
        step.DeadCodeElimination(),
    ]
    try:
        with target:
            return tvm.transform.Sequential(passes)(module)
    except Exception as error:
        raise BackendError(
            f"TVM cannot make loops of {where}: {first_line(error)}",
            fix="compile for a target that ONNX Runtime runs on, or export with fixed sizes",
        ) from error


def chain_of(imported: Imported, module: Any) -> Chain:
    """The calls of a legalized module.

    Raises:
        BackendError: Something in it is no loop nest, such as a size that depends on data.
    """
    return _Reader(imported, module).read()


class _Reader:
    def __init__(self, imported: Imported, module: Any) -> None:
        self.tvm, self.module, self.variables = load(), module, imported.variables
        self.nodes = ", ".join(sorted({_maker(value) for value in imported.outputs}))
        self.known: dict[Any, Buffer | list[Buffer]] = {}
        self.calls: list[Call] = []
        self.equal = imported.equal

    def read(self) -> Chain:
        main = self.module["main"]
        for parameter in main.params:
            self.known[parameter] = _buffer(parameter.ty)
        for block in main.body.blocks:
            for binding in block.bindings:
                self.known[binding.var] = self._value(binding.value)
        inputs = tuple(self._one(parameter) for parameter in main.params)
        results = self._value(main.body.body)
        outputs = tuple(results) if isinstance(results, list) else (results,)
        return Chain(self.variables, inputs, outputs, self.equal, self.calls)

    def _one(self, expression: Any) -> Buffer:
        value = self._value(expression)
        assert isinstance(value, Buffer)
        return value

    def _value(self, expression: Any) -> Buffer | list[Buffer]:
        relax, ir = self.tvm.relax, self.tvm.ir
        if isinstance(expression, ir.GenericConst):
            array = expression.value.numpy()
            return Buffer(array.dtype.name, tuple(array.shape), array)
        if isinstance(expression, relax.Tuple):
            return [self._one(each) for each in expression.fields]
        if isinstance(expression, relax.TupleGetItem):
            parts = self._value(expression.tuple_value)
            assert isinstance(parts, list)
            return parts[int(expression.index)]
        if (
            isinstance(expression, ir.Call)
            and getattr(expression.op, "name", "") == "relax.call_tir"
        ):
            return self._call(expression)
        if expression in self.known:
            return self.known[expression]
        what = getattr(getattr(expression, "op", None), "name", type(expression).__name__)
        raise BackendError(
            f"{self.nodes}: TVM needs {what}, which has no code of its own: a size depends on data",
            fix="compile for a target that ONNX Runtime runs on, or export with fixed sizes",
        )

    def _call(self, call: Any) -> Buffer | list[Buffer]:
        ir, relax = self.tvm.ir, self.tvm.relax
        function = self.module[call.args[0]]
        made = [_buffer(kind) for kind in _kinds(call.ty_args[0], relax)]
        operands = list(call.args[1].fields if hasattr(call.args[1], "fields") else [call.args[1]])
        scalars = list(call.args[2].values) if len(call.args) > 2 else []
        given: list[Any] = [each if ir.is_prim_expr(each) else self._one(each) for each in operands]
        given += [*made, *scalars]
        buffers = tuple(each for each in given if isinstance(each, Buffer))
        specialized = _specialize(self.tvm, function, given, self.variables)
        name = str(call.args[0].name_hint)
        self.calls.append(Call(specialized, buffers, len(made), name))
        return made if hasattr(call.ty_args[0], "fields") else made[0]


def _specialize(
    tvm: Any, function: Any, given: Sequence[Buffer | Any], variables: Sequence[Any]
) -> Any:
    """A function over the chain's variables alone: its own are replaced by what they stand for."""
    meaning: dict[Any, Any] = {}
    parameters = []
    for parameter, each in zip(function.params, given, strict=True):
        if not isinstance(each, Buffer):
            meaning[parameter] = each
            continue
        parameters.append(parameter)
        if isinstance(parameter.ty.elem_offset, tvm.ir.Var):
            meaning[parameter.ty.elem_offset] = tvm.tirx.IntImm("int64", 0)
        for own, dim in zip(parameter.ty.shape, each.dims, strict=True):
            if isinstance(own, tvm.ir.Var):
                meaning.setdefault(
                    own, tvm.tirx.IntImm("int64", dim) if isinstance(dim, int) else dim
                )
    attributes = {key: function.attrs[key] for key in ("tirx.noalias",) if key in function.attrs}
    kept = tvm.tirx.PrimFunc(parameters, function.body, function.ret_type)
    replaced = tvm_ffi().structural_map(kept, (tvm.ir.Var, lambda var: meaning.get(var, var)))
    bound = {dim for parameter in replaced.params for dim in parameter.ty.shape}
    used = variables_in([replaced.body, *(each.ty for each in replaced.params)])
    loose = [each for each in variables if each in used and each not in bound]
    made = tvm.tirx.PrimFunc([*replaced.params, *loose], replaced.body, replaced.ret_type)
    return made.with_attrs({**attributes, "s_tir": True})


def _kinds(kind: Any, relax: Any) -> list[Any]:
    return list(kind.fields) if hasattr(kind, "fields") else [kind]


def _buffer(kind: Any) -> Buffer:
    return Buffer(str(kind.dtype), dims_of(kind.shape))


def dims_of(shape: Any) -> tuple[Any, ...]:
    """Numbers where they are known, else expressions."""
    known = load().tirx.IntImm
    return tuple(int(dim) if isinstance(dim, known) else dim for dim in shape)


def _maker(value: Any) -> str:
    producer = value.producer()
    return str(value.name if producer is None else producer.name)
