"""Give every value the shape and type that can be known."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc import ops
from sparsecc.passes.base import Context, Pass

# Small initializers carry shape arithmetic and are shown to the inference; the others only with
# their type and shape, so that models above 2 GB pass through protobuf.
_SMALL_BYTES = 1024


class ShapeInference(Pass):
    """Infer shapes with onnx, and those of sparse ops with their own declaration.

    What is declared already wins over what is inferred; a contradiction is refused with the
    reason and leaves the model as it was.
    """

    name = "shape-inference"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Infer, then merge into the values of `model` by name."""
        modified = self._infer_sparse(model, ctx)
        try:
            inferred = onnx.shape_inference.infer_shapes(
                ir.serde.serialize_model(_without_data(model)), data_prop=True
            )
            known = ir.serde.deserialize_model(inferred)
        except Exception as error:
            ctx.refuse(self.name, None, f"onnx cannot infer shapes: {error}")
            return modified
        for graph, source in zip(model.graphs(), known.graphs(), strict=False):
            found = {value.name: value for value in _values(source)}
            for value in _values(graph):
                if value.name in found:
                    modified |= self._merge(value, found[value.name], ctx)
        return modified

    def _infer_sparse(self, model: ir.Model, ctx: Context) -> bool:
        """Set the output shape of sparse nodes: onnx does not know their ops."""
        modified = False
        for node in model.graph.all_nodes():
            x = node.inputs[0] if ops.is_ours(node) else None
            if x is None or x.shape is None:
                continue
            dims = [dim if isinstance(dim, int) else dim.value for dim in x.shape]
            out = ir.Value(shape=ir.Shape(ops.infer_shape(node, dims)), type=ops.output_type(node))
            modified |= self._merge(node.outputs[0], out, ctx)
        return modified

    def _merge(self, value: ir.Value, known: ir.Value, ctx: Context) -> bool:
        before = str(value.shape), str(value.type)
        try:
            value.merge_shapes(known.shape)
        except ValueError as error:
            ctx.refuse(self.name, value.producer(), str(error))
        if value.type is None:
            value.type = known.type
        return (str(value.shape), str(value.type)) != before


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(output for node in graph for output in node.outputs if output.name)]


def _without_data(model: ir.Model) -> ir.Model:
    """A copy of `model` in which large initializers are inputs, known by type and shape only."""
    copy = model.clone()
    common.LiftSubgraphInitializersToMainGraphPass()(copy)
    graph = copy.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        assert tensor is not None, f"initializer {name} has no data"
        if tensor.nbytes > _SMALL_BYTES:
            graph.initializers.pop(name)
            value.const_value = None
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            graph.inputs.append(value)
    return copy
