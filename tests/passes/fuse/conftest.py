"""Models whose layers are sparse, before and after fusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.formats.blocks import pack_blocks
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Refusal, run
from sparsecc.passes.canonicalize.explicit_pads import ExplicitPads
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.pipeline import EXACT_AFTER

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Fused:
    """Op types and node names after fusion, and what was declined."""

    ops: list[str]
    names: list[str | None]
    refusals: list[Refusal]


def make_sparse(model: ir.Model) -> None:
    """Turn every Conv and MatMul with a constant weight into a plain sparse op."""
    for node in list(edit.nodes_of(model, "Conv", "MatMul")):
        weight = edit.constant(node.inputs[1])
        conv = node.op_type == "Conv"
        rows = np.ascontiguousarray(weight.transpose(0, 2, 3, 1) if conv else weight.T)
        bias = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
        arrays = ops.packed_arrays(pack_blocks(rows, (1, 1)))
        arrays = {**arrays, "bias": np.zeros(len(rows), "f4") if bias is None else bias}
        values = [
            edit.new_initializer(node, f"{node.name}.{name}", array)
            for name, array in arrays.items()
        ]
        names = ("strides", "pads", "dilations", "group") if conv else ()
        attributes = [node.attributes[name] for name in names]
        base = "SparseConv" if conv else "SparseMatMul"
        new = ir.Node(ops.DOMAIN, base, [node.inputs[0], *values], attributes, name=node.name)
        edit.replace([node], [new], at=node)
    model.opset_imports[ops.DOMAIN] = ops.VERSION


def fuse_text(text: str, weights: Arrays, feeds: Arrays) -> Fused:
    """Make the layers of a model sparse, fuse, and compare the outputs with the original's."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, dict(feeds))
    model, ctx = capture(proto), Context(verify=True)
    run([ExplicitPads(), ShapeInference()], model, ctx)
    make_sparse(model)
    run(EXACT_AFTER, model, ctx)
    names = [node.name for node in model.graph]
    op_types = [node.op_type for node in model.graph]
    ops.attach_functions(model)
    content = ir.to_proto(model).SerializeToString()
    got = onnxruntime.InferenceSession(content).run(None, dict(feeds))
    for one, other in zip(wanted, got, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=3e-6 * max(1, np.abs(one).max()))
    return Fused(op_types, names, ctx.refusals)


@pytest.fixture
def fuse() -> Callable[..., Fused]:
    return fuse_text
