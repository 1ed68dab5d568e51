"""Cut a model into runnable pieces: what each needs, and an ONNX Runtime session for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

INLINE_BYTES = 1 << 30
"""Weights of one piece beyond this go to a file beside it (protobuf ends at 2 GiB)."""
_SMALL_TENSOR = 1 << 10
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial"}
    | {f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")}
)


def reads(node: ir.Node) -> list[ir.Value]:
    """Values of the main graph that ``node`` reads, those captured by its bodies included."""
    found = [value for value in node.inputs if value is not None]
    for graph in _bodies(node):
        own: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
        inner: list[ir.Value] = []
        for each in graph:
            inner += reads(each)
            own.update(each.outputs)
        inner.extend(graph.outputs)
        found += [value for value in inner if value not in own]
    return found


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The nodes that matter for some values of a model, and how long each value lives.

    Attributes:
        model: The model.
        nodes: The ancestors of the wanted values that depend on an input, in graph order.
        static: Ancestors that depend on constants alone; recomputed wherever they are read.
        last_use: Varying value → index in ``nodes`` of its last reader, or of the cut where it
            is wanted.
        born: Varying value → index in ``nodes`` of its producer (-1 for graph inputs).
    """

    model: ir.Model
    nodes: tuple[ir.Node, ...]
    static: frozenset[ir.Node]
    last_use: Mapping[ir.Value, int]
    born: Mapping[ir.Value, int]

    def alive(self, cut: int) -> list[ir.Value]:
        """Varying values made before the node number ``cut`` and still read from there on."""
        return [v for v, born in self.born.items() if born < cut <= self.last_use.get(v, -1)]


def schedule(
    model: ir.Model, wanted: Sequence[tuple[ir.Value, ir.Node]], *, to_end: bool = False
) -> Schedule:
    """Plan how to compute values, each just before the node that it is paired with.

    Args:
        model: The model.
        wanted: Values, and the nodes before which they are wanted.
        to_end: Whether the outputs of the model are wanted too, behind the last node.
    """
    static = static_nodes(model.graph)
    ends = list(model.graph.outputs) if to_end else []
    needed = _ancestors(value.producer() for value in (*(each for each, _ in wanted), *ends))
    readers = {node for _, node in wanted}
    born: dict[ir.Value, int] = dict.fromkeys(model.graph.inputs, -1)
    last_use: dict[ir.Value, int] = {}
    nodes: list[ir.Node] = []
    cuts: dict[ir.Node, int] = {}
    for node in model.graph:
        if node in readers:
            cuts[node] = len(nodes)
        if node not in needed or node in static:
            continue
        for value in reads(node):
            last_use[value] = len(nodes)
        for value in node.outputs:
            born[value] = len(nodes)
        nodes.append(node)
    for value, node in wanted:
        last_use[value] = max(last_use.get(value, -1), cuts[node])
    last_use |= dict.fromkeys(ends, len(nodes))
    return Schedule(model, tuple(nodes), frozenset(static & needed), last_use, born)


def static_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Nodes of ``graph`` whose outputs depend on constants alone."""
    static: set[ir.Node] = set()
    for node in graph:
        fixed = all(
            value.producer() in static if value.producer() is not None else value.is_initializer()
            for value in reads(node)
        )
        if fixed and node.op_type not in _RANDOM and not any(True for _ in _bodies(node)):
            static.add(node)
    return static


def _ancestors(starts: Iterable[ir.Node | None]) -> set[ir.Node]:
    todo, found = list(starts), set[ir.Node]()
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [value.producer() for value in reads(node)]
    return found


def open_segment(
    plan: Schedule,
    nodes: Sequence[ir.Node],
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    folder: Path,
    *,
    inline_bytes: int = INLINE_BYTES,
) -> onnxruntime.InferenceSession:
    """A session that computes ``outputs`` from ``inputs`` through ``nodes``.

    Args:
        plan: Whose model and static nodes are used.
        nodes: Consecutive nodes of the plan.
        inputs: Name → an array of the right dtype and rank (values do not matter).
        outputs: Names of values to return.
        folder: Where weights beyond ``inline_bytes`` are written.
        inline_bytes: Weights up to this many bytes in all stay inside the model proto.

    Raises:
        Exception: Whatever ONNX Runtime raises for a model it cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # as much memory again, for what runs once per batch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    infos = [_value_info(name, array, [None] * array.ndim) for name, array in inputs.items()]
    source = _segment(plan, nodes, infos, outputs, folder, inline_bytes)
    read = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(read, options, providers=["CPUExecutionProvider"])


def segment_of_fixed_sizes(
    plan: Schedule,
    nodes: Sequence[ir.Node],
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    folder: Path,
) -> Path | bytes:
    """The model of a segment that is always fed arrays of these very shapes.

    See :func:`open_segment`; the file in `folder`, or its bytes where the weights are few.
    """
    infos = [_value_info(name, array, array.shape) for name, array in inputs.items()]
    return _segment(plan, nodes, infos, outputs, folder, INLINE_BYTES)


def _segment(
    plan: Schedule,
    nodes: Sequence[ir.Node],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    folder: Path,
    inline_bytes: int,
) -> Path | bytes:
    nodes = [*_static_behind(plan.model.graph, nodes, plan.static), *nodes]
    weights: dict[str, ir.TensorProtocol] = {}
    for node in nodes:
        for value in reads(node):
            if value.is_initializer() and value.const_value is not None:
                weights[value.name or ""] = value.const_value
    beside = sum(tensor.nbytes for tensor in weights.values()) > inline_bytes
    data_file = folder / "weights.bin" if beside else None
    graph = onnx.GraphProto(
        name="segment",
        node=[ir.serde.serialize_node(node) for node in nodes],
        input=inputs,
        output=[onnx.ValueInfoProto(name=name) for name in outputs],
        initializer=_tensors(weights, data_file),
    )
    model = onnx.ModelProto(
        ir_version=min(plan.model.ir_version, 10),
        graph=graph,
        opset_import=[
            onnx.OperatorSetIdProto(domain=domain, version=version)
            for domain, version in plan.model.opset_imports.items()
        ],
        functions=[ir.serde.serialize_function(f) for f in plan.model.functions.values()],
    )
    data: bytes = model.SerializeToString()
    if data_file is None:
        return data
    path = folder / "segment.onnx"
    path.write_bytes(data)
    return path


def _static_behind(
    graph: ir.Graph, nodes: Sequence[ir.Node], static: frozenset[ir.Node]
) -> list[ir.Node]:
    producers = [value.producer() for node in nodes for value in reads(node)]
    behind = _ancestors(node for node in producers if node in static)
    return [node for node in graph if node in behind]


def _value_info(name: str, array: NDArray[Any], sizes: Sequence[int | None]) -> onnx.ValueInfoProto:
    is_text = array.dtype.kind in "OUS"
    kind = onnx.TensorProto.STRING if is_text else onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, sizes)


def _tensors(
    weights: Mapping[str, ir.TensorProtocol], data_file: Path | None
) -> list[onnx.TensorProto]:
    """Protos with the data inside, or (large ones) appended to ``data_file``."""
    if data_file is None:
        return [_tensor(name, tensor) for name, tensor in weights.items()]
    protos = []
    with data_file.open("wb") as file:
        for name, tensor in weights.items():
            if tensor.nbytes <= _SMALL_TENSOR:
                protos.append(_tensor(name, tensor))
                continue
            proto = onnx.TensorProto(
                name=name,
                dims=list(tensor.shape.numpy()),
                data_type=int(tensor.dtype),
                data_location=onnx.TensorProto.EXTERNAL,
            )
            data = tensor.tobytes()
            where = {"location": data_file.name, "offset": file.tell(), "length": len(data)}
            for key, text in where.items():
                proto.external_data.add(key=key, value=str(text))
            file.write(data)
            protos.append(proto)
    return protos


def _tensor(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """A proto that carries its data, wherever the tensor keeps them."""
    if tensor.dtype == ir.DataType.STRING:
        proto = ir.serde.serialize_tensor(tensor)
        proto.name = name
        return proto
    return onnx.TensorProto(
        name=name,
        dims=list(tensor.shape.numpy()),
        data_type=int(tensor.dtype),
        raw_data=tensor.tobytes(),
    )
