"""Experts that stand in a model as codes: DequantizeLinear in every form, com.microsoft.QMoE."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.errors import ModelError
from sparsecc.formats.codes import find_codes
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.edit import constant
from tests.passes.moe import forms

FEATURES, INNER, EXPERTS, TOKENS = 32, 48, 4, 12


# ---- DequantizeLinear ----
def quantised(model: ir.Model, zero: bool) -> None:
    """Every weight of experts becomes bytes with a scale for each index of an axis."""
    graph, router = model.graph, forms.FEATURES * forms.EXPERTS
    for name, value in list(graph.initializers.items()):
        array = constant(value)
        if array is None or array.ndim < 2 or array.dtype != np.float32 or array.size == router:
            continue
        axis, scale = array.ndim - 2, np.abs(array).max() / 127
        codes = np.rint(array / scale).astype(np.int16)
        stored = (codes + 128).astype(np.uint8) if zero else codes.astype(np.int8)
        parts = {
            "codes": stored,
            "scale": np.full(array.shape[axis], scale, np.float32),
            **({"zero": np.full(array.shape[axis], 128, np.uint8)} if zero else {}),
        }
        held = [ops.initializer(f"{name}.{part}", each) for part, each in parts.items()]
        for each in held:
            graph.register_initializer(each)
        node = ir.Node("", "DequantizeLinear", held, [ir.AttrInt64("axis", axis)])
        graph.insert_before(graph[0], node)
        made = node.outputs[0]
        made.name, made.type, made.shape = f"{name}.numbers", value.type, value.shape
        value.replace_all_uses_with(made)
        del graph.initializers[name]


@pytest.mark.parametrize("form", forms.FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("zero", [False, True])
def test_every_form_over_dequantised_weights(form: type[nn.Module], zero: bool) -> None:
    torch.manual_seed(0)
    x = forms.tokens()
    model, context = capture(forms.leaning(form()).eval(), (x,)), Context(verify=True)
    quantised(model, zero)
    peer = session_of_model(model, threads=1)
    feed = {peer.get_inputs()[0].name: x.numpy()}
    (wanted,) = peer.run(None, feed)
    run(pipeline.EXACT_BEFORE, model, context)
    (node,) = (node for node in model.graph if ops.is_mixture(node))
    assert not [each for each in model.graph if each.op_type == "DequantizeLinear"]
    weights = [array for value in node.inputs[3:] if (array := constant(value)) is not None]
    found = find_codes([array for array in weights if array.ndim == 3])
    assert found is not None
    assert {each.bits for each in found} == {8}
    ops.attach_functions(model)
    (made,) = session_of_model(model, threads=1).run(None, feed)
    assert np.abs(made - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_other_layers_stay_behind_their_codes() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(forms.IndexAdd(), nn.Linear(forms.FEATURES, 24)).eval()
    model = capture(module, (forms.tokens(),))
    quantised(model, zero=False)
    run(pipeline.EXACT_BEFORE, model, Context(verify=True))
    assert any(ops.is_mixture(node) for node in model.graph)
    (left,) = (node for node in model.graph if node.op_type == "DequantizeLinear")
    assert constant(left.outputs[0]) is None


# ---- com.microsoft.QMoE ----
def qmoe(
    bits: int, block: int | None, *, fused: bool = False, zero: bool = False, **attributes: Any
) -> onnx.ModelProto:
    rng, held = np.random.default_rng(0), dict[str, np.ndarray]()
    shapes = {"fc1": (INNER * (2 if fused else 1), FEATURES), "fc2": (FEATURES, INNER)}
    for name, (rows, columns) in shapes.items():
        groups = columns // block if block else 1
        held[name] = rng.integers(0, 256, (EXPERTS, rows, columns * bits // 8)).astype(np.uint8)
        scales = rng.uniform(0.5, 1, (EXPERTS, rows, groups)).astype(np.float32) / 2**bits
        held[f"{name}_scales"] = scales if block else scales[..., 0]
        held[f"{name}_bias"] = rng.normal(0, 0.3, (EXPERTS, rows)).astype(np.float32)
        if zero:
            last = -(-groups * bits // 8) if block else 0
            shape = (EXPERTS, rows, last) if block else (EXPERTS, rows * bits // 8)
            held[f"{name}_zeros"] = rng.integers(0, 256, shape).astype(np.uint8)
    names = ["x", "scores", *(f"{fc}{part}" for fc in shapes for part in ("", "_scales", "_bias"))]
    names += [""] * 3 + [f"{fc}_zeros" for fc in shapes] if zero else []
    if block:
        attributes["block_size"] = block
    node = helper.make_node(
        "QMoE", names, ["y"], "moe", domain="com.microsoft", expert_weight_bits=bits, **attributes
    )
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "case",
        [
            info("x", TensorProto.FLOAT, [TOKENS, FEATURES]),
            info("scores", TensorProto.FLOAT, [TOKENS, EXPERTS]),
        ],
        [info("y", TensorProto.FLOAT, [TOKENS, FEATURES])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"x": (TOKENS, FEATURES), "scores": (TOKENS, EXPERTS)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


GATED = {"fused": True, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0}
CASES: dict[str, tuple[int, int | None, dict[str, Any]]] = {
    "int8": (8, None, {"activation_type": "relu"}),
    "int4": (4, None, {"activation_type": "silu"}),
    "int4 in blocks": (4, 16, {"activation_type": "gelu"}),
    "gated": (8, None, GATED),
    "gated, in blocks": (4, 16, {**GATED, "normalize_routing_weights": 1}),
    "zero points": (8, None, {"activation_type": "relu", "zero": True}),
    "zero points of blocks": (4, 16, {"activation_type": "relu", "zero": True}),
    "zero points of rows": (4, None, {"activation_type": "relu", "zero": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_onnx_runtime_does(case: str) -> None:
    bits, block, attributes = CASES[case]
    proto = qmoe(bits, block, k=2, **attributes)
    peer = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = peer.run(None, feeds())
    graph, context = capture(proto), Context(verify=True)
    run(pipeline.EXACT_BEFORE, graph, context)
    (node,) = (node for node in graph.graph if ops.is_mixture(node))
    assert not context.refusals
    weights = [array for value in node.inputs[3:] if (array := constant(value)) is not None]
    found = find_codes([array for array in weights if array.ndim == 3])
    if not attributes.get("zero"):
        assert found is not None
        assert {each.bits for each in found} == {bits}
    ops.attach_functions(graph)
    (made,) = session_of_model(graph, threads=1).run(None, feeds())
    assert np.abs(made - wanted).max() < 3e-6 * np.abs(wanted).max()


def test_blocks_of_bytes_are_their_numbers() -> None:
    """ONNX Runtime rounds what goes into these to bytes; the definition of the op does not."""
    proto = qmoe(8, 16, k=2, activation_type="relu")
    (wanted,) = ort.InferenceSession(proto.SerializeToString()).run(None, feeds())
    graph = capture(proto)
    run(pipeline.EXACT_BEFORE, graph, Context())
    ops.attach_functions(graph)
    (made,) = session_of_model(graph, threads=1).run(None, feeds())
    assert 1e-5 < np.abs(made - wanted).max() / np.abs(wanted).max() < 2e-2


def changed(proto: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    kept = [each for each in proto.graph.initializer if each.name != name]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, numpy_helper.from_array(array, name)])
    return proto


PLAIN = {"k": 2, "activation_type": "relu"}
ONES = np.ones((EXPERTS, 5), np.float32)
STAYS = {
    "type": (qmoe(8, None, **PLAIN, quant_type="fp8"), "of the type 'fp8'"),
    "prepacked": (qmoe(8, None, **PLAIN, weights_prepacked=1), "for one execution provider"),
    "bits": (qmoe(8, None, **PLAIN, fc2_expert_weight_bits=2), "experts of 2 bits"),
    "scales": (changed(qmoe(8, None, **PLAIN), "fc1_scales", ONES), "scales of the shape [4, 5]"),
    "numbers": (
        changed(qmoe(8, None, **PLAIN), "fc2", np.ones((EXPERTS, FEATURES, INNER), np.float32)),
        "not bytes with scales",
    ),
    "block": (qmoe(8, None, **PLAIN, block_size=20), "no multiple of block_size 20"),
}


@pytest.mark.parametrize("what", STAYS)
def test_others_stay_with_the_reason(what: str) -> None:
    proto, reason = STAYS[what]
    graph, context = capture(proto), Context(verify=True)
    run(pipeline.EXACT_BEFORE, graph, context)
    assert [node.op_type for node in graph.graph] == ["QMoE"]
    (refusal,) = (each for each in context.refusals if each.pass_name == "mixtures")
    assert reason in refusal.reason
    assert refusal.node == "moe"


def test_more_experts_than_there_are_is_an_error() -> None:
    graph = capture(qmoe(8, None, k=EXPERTS + 1, activation_type="relu"))
    with pytest.raises(ModelError, match="QMoE chooses 5 of 4 experts") as raised:
        run(pipeline.EXACT_BEFORE, graph, Context())
    assert raised.value.node == "moe"
