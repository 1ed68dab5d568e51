"""The masked-dense twin: standard ops alone, the same function, the model left as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.ops.activations import BY_NAME
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.verifier import fingerprint, verify_model
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_dense import ToDense, twin_of
from sparsecc.passes.weights.to_sparse import replace_layer
from tests import small

RNG = np.random.default_rng(0)
STANDARD = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hardswish": ("HardSwish", {}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}


def residual_block(op: str, activation: str) -> ir.Model:
    """x → layer → + x → activation, the layer sparse and all of it fused into one node."""
    weight = RNG.standard_normal((32, 32)).astype(np.float32)
    weight[RNG.random((32, 32)) < 0.7] = 0
    shape = [2, 5, 32] if op == "MatMul" else [2, 32, 5, 5]
    kind, attributes = STANDARD[activation]
    nodes = [
        helper.make_node(op, ["x", "w"], ["a"], "layer"),
        helper.make_node("Add", ["a", "x"], ["s"], "sum"),
        helper.make_node(kind, ["s"], ["y"], "act", **attributes),
    ]
    weights = {"w": weight if op == "MatMul" else weight[:, :, None, None]}
    model = capture(small.model(nodes, {"x": shape}, {"y": shape}, weights, opset=20))
    run([ShapeInference()], model, Context())
    (layer,) = find_layers(model).layers
    replace_layer(layer, (4, 1))
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    run(pipeline.EXACT_AFTER, model, Context(verify=True))
    ops.attach_functions(model)
    return model


def test_every_activation_that_fuses_is_tried() -> None:
    assert set(STANDARD) | {"none", "relu6", "silu"} == set(BY_NAME)


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
@pytest.mark.parametrize("activation", STANDARD)
def test_the_twin_computes_the_same_in_standard_ops(op: str, activation: str) -> None:
    model = residual_block(op, activation)
    (sparse,) = (node for node in model.graph if ops.is_sparse(node))
    what = ops.parse(sparse.op_type)
    assert (what.residual, what.activation) == (True, activation)
    before = fingerprint(model)
    twin = twin_of(model)
    assert fingerprint(model) == before
    assert not any(ops.is_sparse(node) for node in twin.graph.all_nodes())
    assert not twin.functions
    verify_model(twin)
    x = RNG.standard_normal([int(dim) for dim in model.graph.inputs[0].shape]).astype(np.float32)
    ours, theirs = (session_of_model(each).run(None, {"x": x})[0] for each in (model, twin))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_a_model_without_sparse_ops_is_not_touched() -> None:
    model = capture(small.mlp())
    before = fingerprint(model)
    assert not run([ToDense()], model, Context(verify=True))
    assert fingerprint(model) == before
    assert fingerprint(twin_of(model)) == before


def test_names_of_layers_stay_visible_in_the_twin() -> None:
    twin = twin_of(residual_block("Conv", "relu"))
    assert all(node.name.startswith("layer") for node in twin.graph)
    assert [value.name for value in twin.graph.outputs] == ["y"]
