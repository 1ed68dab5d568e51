"""Models in which some layers are sparse already, as passes beside sparse layers meet them."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_sparse import replace_layer


def with_sparse(proto: onnx.ModelProto, *sparse: str) -> tuple[ir.Model, Context]:
    """The canonical model with the named layers in 4x1 blocks."""
    model, ctx = capture(proto), Context(verify=True)
    run(pipeline.EXACT_BEFORE, model, ctx)
    for layer in find_layers(model).layers:
        if layer.name in sparse:
            replace_layer(layer, (4, 1))
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    return model, ctx
