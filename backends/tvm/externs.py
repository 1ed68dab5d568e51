"""What the kernel library has no step for, as steps of the kind ``extern`` that TVM generated."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.backends.bundle.whole import Extern
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.codegen.toolchain import OBJECT_FLAGS, is_wasm, run_zig
from sparsecc.backends.tvm.importer import import_nodes
from sparsecc.backends.tvm.load import tvm_ffi
from sparsecc.backends.tvm.lower import Buffer, Call, Chain, chain_of, dims_of, legalized
from sparsecc.backends.tvm.nests import nests_of
from sparsecc.backends.tvm.objects import KERNELS, RUNTIME, machine, object_of, runtime_object
from sparsecc.backends.tvm.schedule import registers_of, schedule
from sparsecc.backends.tvm.source import Link, Run, c_source
from sparsecc.backends.tvm.symbols import atoms
from sparsecc.backends.tvm.tuning.tuner import Tuner
from sparsecc.passes.base import Refusal
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions.unit import Unit as Work
from sparsecc.passes.regions.units import groups
from sparsecc.targets import Target

PASS_NAME = "tvm"
NAMED = 4
"""Nodes that an error names."""


@dataclass(frozen=True)
class Leftovers:
    """Steps of generated code, and what they need.

    Attributes:
        units: One for each group of nodes; its step has one attribute, a position in `externs`.
        externs: Their functions.
        objects: Object files to link, by name.
        constants: New constants that the steps name, besides those of the graph.
        notes: Hot loops that no schedule fits, by the node they are of.
    """

    units: tuple[Work, ...]
    externs: tuple[Extern, ...]
    objects: Mapping[str, bytes]
    constants: Mapping[str, NDArray[Any]]
    notes: tuple[Refusal, ...] = ()


def externs_of(
    model: ir.Model,
    units: Sequence[Work],
    nodes: Sequence[ir.Node],
    target: Target,
    tuner: Tuner | None = None,
) -> Leftovers:
    """Steps for the nodes of a graph that are in no unit.

    Args:
        model: A rewritten model.
        units: What the kernel library computes.
        nodes: All other nodes of the main graph, in its order; none of them a Constant.
        target: What code is generated for.
        tuner: Finds schedules; by default they are direct.

    Raises:
        BackendError: TVM is missing, or has no code for a node; names it.
        TargetError: TVM has no code for the target.
    """
    if not nodes:
        return Leftovers((), (), {}, {})
    return _Maker(model, target, tuner).make(units, nodes)


Readers = dict[str, list[ir.Node | None]]
"""Of values by name: the nodes that read them as data, and None for units."""


def needed(
    model: ir.Model, shapes: Shapes, units: Sequence[Work], nodes: Sequence[ir.Node]
) -> tuple[set[ir.Node], Readers]:
    """Those nodes of which data are read; sizes are computed where they are needed.

    Args:
        model: What the nodes are of.
        shapes: Of the model.
        units: What the kernel library computes.
        nodes: All other nodes, in the order of the graph.
    """
    readers: Readers = {}
    for name in (name for unit in units for name in unit.step.inputs):
        readers.setdefault(name, []).append(None)
    wanted = set()
    for node in reversed(nodes):
        names = [str(value.name) for value in node.outputs]
        if any(value.is_graph_output() for value in node.outputs) or set(names) & set(readers):
            wanted.add(node)
            for value in data_read(node, shapes):
                readers.setdefault(str(value.name), []).append(node)
    return wanted, readers


def data_read(node: ir.Node, shapes: Shapes) -> list[ir.Value]:
    """Operands of a node that are neither constants nor sizes."""
    return [
        value
        for value in node.inputs
        if value is not None and constant(value) is None and shapes.numbers(value) is None
    ]


@dataclass(frozen=True)
class _Group:
    """Connected nodes, what they read and make, and their calls."""

    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value]
    outputs: Sequence[ir.Value]
    chain: Chain


class _Maker:
    def __init__(self, model: ir.Model, target: Target, tuner: Tuner | None) -> None:
        self.scheduled = schedule if tuner is None else tuner.schedule
        self.tuner = tuner
        self.model, self.target, self.machine = model, target, machine(target)
        self.shapes = Shapes(model)
        self.kernels: dict[str, Any] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.notes: list[Refusal] = []
        self.readers: Readers = {}

    def make(self, units: Sequence[Work], nodes: Sequence[ir.Node]) -> Leftovers:
        wanted, self.readers = needed(self.model, self.shapes, units, nodes)
        single = [Work((node,), Step("extern", str(node.name), (), ())) for node in nodes]
        chains: list[tuple[list[ir.Node], _Group]] = []
        for group in groups(self.model.graph, single, units):
            members = [node for unit in group for node in unit.nodes]
            if inside := [each for each in members if each in wanted]:
                chains.append((members, self._group(inside)))
        if self.tuner is not None:
            self.tuner.choose(
                [(each.name, each.function) for _, made in chains for each in made.chain.calls]
            )
        made: list[Work] = []
        externs: list[Extern] = []
        for members, each in chains:
            step, extern = self._step(each, len(made))
            made.append(Work(tuple(members), step))
            externs.append(extern)
        objects = self._objects() if self.kernels else {}
        return Leftovers(tuple(made), tuple(externs), objects, self.constants, tuple(self.notes))

    def _objects(self) -> dict[str, bytes]:
        """The kernels, and what they call; without notes for debuggers where that can be."""
        objects = {
            KERNELS: object_of(self.kernels, self.machine),
            RUNTIME: runtime_object(self.target),
        }
        linker = "wasm-ld" if is_wasm(self.target.triple) else "ld.lld"
        if not (is_wasm(self.target.triple) or "linux" in self.target.triple):
            return objects
        with tempfile.TemporaryDirectory() as folder:
            for name, content in objects.items():
                (Path(folder) / name).write_bytes(content)
            run_zig(
                [linker, *OBJECT_FLAGS, "--strip-debug", *objects, "-o", "both.o"], Path(folder)
            )
            return {KERNELS: (Path(folder) / "both.o").read_bytes()}

    def _group(self, nodes: Sequence[ir.Node]) -> _Group:
        inputs, outputs = self._ends(nodes)
        opset = self.model.opset_imports[""]
        where = ", ".join(str(node.name) for node in nodes[:NAMED])
        imported = import_nodes(nodes, inputs, outputs, self.shapes, opset)
        chain = chain_of(imported, legalized(imported.module, self.machine, where))
        return _Group(nodes, inputs, outputs, chain)

    def _step(self, group: _Group, at: int) -> tuple[Step, Extern]:
        name, nodes, chain = f"tvm{at}", group.nodes, group.chain
        runs = tuple(run for call in chain.calls for run in self._runs(call, chain, nodes, name))
        used = dict.fromkeys([*(b for run in runs for b in run.buffers), *chain.outputs])
        constants = tuple(buffer for buffer in used if buffer.array is not None)
        ends = chain.inputs, chain.outputs
        link = Link(name, chain.variables, *ends, chain.equal, constants, runs)
        names = tuple(f"{name}.{number}" for number in range(len(constants)))
        for each, buffer in zip(names, constants, strict=True):
            assert buffer.array is not None
            self.constants[each] = buffer.array
        read, made = ([str(value.name) for value in ends] for ends in (group.inputs, group.outputs))
        step = Step("extern", str(nodes[0].name), tuple(read), tuple(made), names, (at,))
        return step, Extern(name, c_source(link))

    def _ends(self, nodes: Sequence[ir.Node]) -> tuple[list[ir.Value], list[ir.Value]]:
        """What a group reads from outside, and what others read of it."""
        inside = set(nodes)
        read = dict.fromkeys(value for node in nodes for value in data_read(node, self.shapes))
        inputs = [value for value in read if value.producer() not in inside]
        inputs += self._witnesses(nodes, inputs)
        outputs = [
            value
            for node in nodes
            for value in node.outputs
            if value.is_graph_output()
            or any(reader not in inside for reader in self.readers.get(str(value.name), ()))
        ]
        return inputs or [self.model.graph.inputs[0]], outputs

    def _witnesses(self, nodes: Sequence[ir.Node], inputs: Sequence[ir.Value]) -> list[ir.Value]:
        """Values of which only dimensions are read: those that sizes in the group are made of."""
        known = {term for value in inputs for term in self.shapes.terms(value) or ()}
        sizes = [
            held
            for node in nodes
            for value in (*node.inputs, *node.outputs)
            if value is not None and (held := self.shapes.numbers(value)) is not None
        ]
        found: list[ir.Value] = []
        for atom in atoms([term for held in sizes for term in held]):
            if atom in known:
                continue
            places = [*self.model.graph.inputs, *([atom[0]] if isinstance(atom, tuple) else [])]
            for value in places:
                terms = self.shapes.terms(value) or ()
                if atom in terms:
                    found.append(value)
                    known.update(terms)
                    break
        return found

    def _runs(self, call: Call, chain: Chain, nodes: Sequence[ir.Node], name: str) -> list[Run]:
        scheduled = self.scheduled(call.function, registers_of(self.target))
        for left in scheduled.left:
            reason = f"a hot loop ({left} of {call.name}) runs without a schedule of its own"
            self.notes.append(Refusal(PASS_NAME, str(nodes[0].name), reason))
        parameters = dict(zip(scheduled.function.params, call.buffers, strict=False))
        runs = []
        for nest in nests_of(scheduled.function, chain.variables, call.name):
            buffers = []
            for each in nest.buffers:
                if each not in parameters:
                    parameters[each] = Buffer(str(each.ty.dtype), dims_of(each.ty.shape))
                buffers.append(parameters[each])
            symbol = self._symbol(nest.function, name)
            runs.append(Run(symbol, tuple(buffers), nest.sizes, nest.extent, nest.work))
        return runs

    def _symbol(self, function: Any, name: str) -> str:
        """The name of a kernel, of the same one where there is one."""
        equal = tvm_ffi().structural_equal
        for symbol, known in self.kernels.items():
            if equal(function, known, map_free_vars=True):
                return symbol
        symbol = f"sc_{name}_{len(self.kernels)}"
        self.kernels[symbol] = function
        return symbol
