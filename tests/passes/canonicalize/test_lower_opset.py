from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sparsecc.capture import capture
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.common_subexpressions import CommonSubexpressions
from sparsecc.passes.canonicalize.constant_folding import ConstantFolding
from sparsecc.passes.canonicalize.lower_opset import (
    DECOMPOSED,
    NEW_ATTRIBUTES,
    SAME_MEANING,
    TARGET_OPSET,
    LowerOpset,
)
from sparsecc.passes.canonicalize.shape_inference import ShapeInference

PASSES = [ShapeInference(), LowerOpset(), ShapeInference(), ConstantFolding()]
RNG = np.random.default_rng(0)
NO_WAY_BACK = {"TensorScatter"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


def model_of(node: onnx.NodeProto, feeds: dict, opset: int, dynamic: bool) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"{name}0" if dynamic and axis == 0 else n for axis, n in enumerate(array.shape)],
        )
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def changed_ops() -> dict[str, set[str]]:
    """Ops with a version in 22–24, with the attributes those versions added."""
    changed: dict[str, set[str]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and 22 <= schema.since_version <= 24:
            try:
                old = set(onnx.defs.get_schema(schema.name, TARGET_OPSET, "").attributes)
            except onnx.defs.SchemaError:
                old = set(schema.attributes)
            changed.setdefault(schema.name, set()).update(set(schema.attributes) - old)
    return changed


def test_every_changed_op_is_listed():
    changed = changed_ops()
    assert set(changed) - NO_WAY_BACK == SAME_MEANING | set(DECOMPOSED)
    added = {name: attributes for name, attributes in changed.items() if attributes}
    assert added == {name: {attribute} for name, (attribute, _) in NEW_ATTRIBUTES.items()}


QKV = {"q": normal(2, 4, 5, 8), "k": normal(2, 4, 7, 8), "v": normal(2, 4, 7, 6)}
GROUPED = {"q": QKV["q"], "k": QKV["k"][:, :2], "v": QKV["v"][:, :2]}
FLAT = {"q": normal(2, 5, 32), "k": normal(2, 7, 16), "v": normal(2, 7, 12)}
HIDDEN = RNG.random((2, 1, 5, 7)) > 0.5
HIDDEN[0, 0, 1] = False
CASES = [
    ({}, QKV, 23),
    ({"scale": 0.3}, QKV, 24),
    ({}, QKV | {"m": HIDDEN}, 23),
    ({}, QKV | {"m": HIDDEN[:, :, :1]}, 24),
    ({"is_causal": 1, "softcap": 2.0}, QKV | {"m": normal(5, 7)}, 24),
    ({"is_causal": 1}, GROUPED, 23),
    ({"q_num_heads": 4, "kv_num_heads": 2}, FLAT, 24),
]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("attributes", "feeds", "opset"), CASES)
def test_attention(attributes, feeds, opset, dynamic):
    node = helper.make_node("Attention", list(feeds), ["y"], **attributes)
    compare(node, feeds, opset, dynamic)


@pytest.mark.parametrize(("op", "attributes", "feeds", "opset"), [
    ("RMSNormalization", {"axis": -2}, {"x": normal(2, 4, 8), "s": normal(4, 8)}, 23),
    ("RotaryEmbedding", {"num_heads": 4, "interleaved": 1},
     {"x": normal(2, 5, 32), "c": normal(2, 5, 4), "s": normal(2, 5, 4)}, 23),
    ("RotaryEmbedding", {},
     {"x": normal(2, 4, 5, 8), "c": normal(9, 4), "s": normal(9, 4),
      "p": RNG.integers(0, 9, (2, 5))}, 24),
    ("Swish", {"alpha": 1.5}, {"x": normal(3, 4)}, 24),
    ("HardSwish", {}, {"x": normal(3, 4)}, 22),
    ("Transpose", {}, {"x": normal(3, 4)}, 24),
])  # fmt: skip
def test_other_ops(op, attributes, feeds, opset):
    compare(helper.make_node(op, list(feeds), ["y"], **attributes), feeds, opset, dynamic=True)


def compare(node: onnx.NodeProto, feeds: dict, opset: int, dynamic: bool) -> None:
    proto = model_of(node, feeds, opset, dynamic)
    (wanted,) = ReferenceEvaluator(proto).run(None, feeds)
    model, ctx = capture(proto), Context(verify=True)
    run(PASSES, model, ctx)
    assert not ctx.refusals
    assert (model.opset_imports[""], model.ir_version) == (21, 10)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered, full_check=True)
    (got,) = onnxruntime.InferenceSession(lowered.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("node", "feeds", "reason"), [
    (helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y"]),
     QKV | {"pk": normal(2, 4, 3, 8), "pv": normal(2, 4, 3, 6)}, "cache"),
    (helper.make_node("Attention", ["q", "k", "v", "m"], ["y"]),
     QKV | {"m": HIDDEN[..., :3]}, "mask over 3 of 7 keys"),
    (helper.make_node("Cast", ["x"], ["y"], to=1, round_mode="down"), {"x": normal(3)},
     "round_mode"),
])  # fmt: skip
def test_refusals_change_nothing(node, feeds, reason):
    model, ctx = capture(model_of(node, feeds, 24, False)), Context(verify=True)
    assert not run([LowerOpset()], model, ctx)
    assert model.opset_imports[""] == 24
    assert reason in ctx.refusals[0].reason


def test_older_models_keep_their_opset_but_not_a_newer_ir_version():
    node = helper.make_node("Relu", ["x"], ["y"])
    model = capture(model_of(node, {"x": normal(3)}, 17, False))
    assert run([LowerOpset()], model, Context(verify=True))
    assert (model.opset_imports[""], model.ir_version) == (17, 10)


def test_equal_masks_are_made_once():
    first, *others = [
        helper.make_node("Attention", ["q", "k", "v", "m"], [name]) for name in ("y", "a", "b")
    ]
    proto = model_of(first, QKV | {"m": HIDDEN}, 23, True)
    for number, node in enumerate(others):
        node.attribute.append(helper.make_attribute("scale", number + 1.0))
    proto.graph.node.extend([*others, helper.make_node("Sum", ["y", "a", "b"], ["z"])])
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    model = capture(proto)
    run([*PASSES, CommonSubexpressions()], model, Context(verify=True))
    ops = [node.op_type for node in model.graph]
    assert (ops.count("ReduceMax"), ops.count("Softmax")) == (1, 3)
