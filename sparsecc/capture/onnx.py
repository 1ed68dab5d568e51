"""Capture of ONNX models: a file, a protobuf message or an IR model."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes import common

from sparsecc.capture import external_data, sparse_initializers, weights
from sparsecc.errors import ModelError
from sparsecc.passes import names

OLDEST_OPSET = 11
NEWEST_OPSET = 24
_DEFAULT_DOMAINS = ("", "ai.onnx")
_LAST_IR_WITH_INITIALIZERS_AS_INPUTS = 3
_FIRST_IR_WITHOUT_THEM = 4


def capture_onnx(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> ir.Model:
    """Turn an ONNX model into the IR.

    Weights that the model keeps in other files stay there until somebody reads them, so models
    above 2 GB cost no memory here. Initializers that are also listed as inputs become plain
    weights: compiling a model fixes its weights.

    Args:
        source: Path of the file, or the model in memory (left as it is).

    Returns:
        A model of its own with unique names on every node.

    Raises:
        ModelError: Not a model, an opset outside 11–24, external data that is missing or
            outside the model's folder, a malformed sparse initializer, weights that are not
            finite.
    """
    if isinstance(source, ir.Model):
        model = source.clone()
        _check_opset(model.opset_imports)
    else:
        model = _from_proto(source)
    _spell_default_domain(model)
    _open_dimensions(model)
    external_data.check(model)
    weights.check_finite(model)
    common.RemoveInitializersFromInputsPass()(model)
    if model.ir_version <= _LAST_IR_WITH_INITIALIZERS_AS_INPUTS:
        model.ir_version = _FIRST_IR_WITHOUT_THEM
    names.name_nodes(model)
    return model


def _open_dimensions(model: ir.Model) -> None:
    """Make sizes below one unknown: some exporters write 0 or -1 for "any"."""
    made = (output for node in model.graph.all_nodes() for output in node.outputs)
    for value in (*model.graph.inputs, *made):
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, int) and dim < (1 if value.is_graph_input() else 0):
                assert value.shape is not None
                value.shape = ir.Shape([*value.shape[:axis], None, *value.shape[axis + 1 :]])


def _spell_default_domain(model: ir.Model) -> None:
    """Write the default domain as "" everywhere; "ai.onnx" is its other spelling."""
    holders: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for holder in holders:
        version = holder.opset_imports.pop("ai.onnx", None)
        if version is not None:
            holder.opset_imports.setdefault("", version)
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        for node in graph.all_nodes():
            if node.domain == "ai.onnx":
                node.domain = ""


def _from_proto(source: str | os.PathLike[str] | onnx.ModelProto) -> ir.Model:
    path = None if isinstance(source, onnx.ModelProto) else Path(source)
    proto = source if isinstance(source, onnx.ModelProto) else _read(Path(source))
    what = str(path) if path else "the ModelProto"
    if not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise _not_a_model(what)
    _check_opset({each.domain: each.version for each in proto.opset_import}, what)
    proto = sparse_initializers.densify(proto)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ModelError(
            f"{what}: the graph is malformed: {reason}", fix="export the model again"
        ) from error
    if path is not None:
        # An empty base_dir would switch off onnx_ir's own containment checks.
        ir.external_data.set_base_dir(model.graph, path.resolve().parent)
    return model


def _read(path: Path) -> onnx.ModelProto:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror}", fix="check the path of the model"
        ) from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise _not_a_model(str(path)) from error
    return proto


def _not_a_model(what: str) -> ModelError:
    return ModelError(
        f"{what}: not an ONNX model (or a truncated one)",
        fix="check that the file is complete; models above 2 GB need external data",
    )


def _check_opset(imports: dict[str, int], what: str = "the model") -> None:
    version = next((imports[name] for name in _DEFAULT_DOMAINS if name in imports), None)
    if version is None:
        raise ModelError(
            f"{what}: imports no ONNX opset", fix="export the model again with opset 17"
        )
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise ModelError(
            f"{what}: opset {version} is outside {OLDEST_OPSET}–{NEWEST_OPSET}",
            fix="export it again with opset 17, or use onnx.version_converter.convert_version",
        )
