"""MoE: its body in ONNX Runtime is its numpy meaning; what is wrong is said."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import ops
from sparsecc.ops.activations import BY_NAME
from sparsecc.passes.base import Context
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.verifier import VerificationError, verify_model
from sparsecc.passes.weights.to_dense import twin_of
from tests.sparsecc.ops.moe_cases import Case, cases, drawn


def computed(case: Case, proto: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString())
    feeds = case.feeds()
    (got,) = session.run(None, {name: feeds[name] for name in ops.ROUTED})
    return got


@given(case=cases(), opset=st.sampled_from([13, 17, 18, 21, 23]))
def test_the_body_computes_the_numpy_meaning(case: Case, opset: int) -> None:
    got = computed(case, case.model(opset))
    np.testing.assert_allclose(got, case.wanted(), rtol=1e-5, atol=2e-5)


@given(case=cases())
def test_a_mixture_is_a_sum_over_slots(case: Case) -> None:
    """The meaning itself, token by token and slot by slot from its definition."""
    a, wanted = case.arrays, np.zeros(case.arrays["X"].shape)
    act = BY_NAME[case.activation].meaning
    for t, slot in np.ndindex(a["experts"].shape):
        e, x = a["experts"][t, slot], a["X"][t]
        bias = {
            name: a[f"{name}_bias"][e] for name in ("up", "gate", "down") if f"{name}_bias" in a
        }
        hidden = act(a["up"][e] @ x + bias.get("up", 0))
        if "gate" in a:
            hidden = hidden * (a["gate"][e] @ x + bias.get("gate", 0))
        wanted[t] += a["gates"][t, slot] * (a["down"][e] @ hidden + bias.get("down", 0))
    np.testing.assert_allclose(case.wanted(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("expert", [-1, 4])
def test_no_expert_outside_is_computed(expert: int) -> None:
    case = drawn(tokens=3, experts=4, chosen=2)
    case.arrays["experts"][1, 0] = expert
    with pytest.raises(ValueError, match="outside of 0 … 3"):
        case.wanted()
    with pytest.raises(Exception, match="out of data bounds"):
        computed(case, case.model())


def test_a_gate_that_is_no_number_is_refused() -> None:
    case = drawn(tokens=3, experts=4, chosen=2)
    case.arrays["gates"][1, 0] = np.nan
    with pytest.raises(ValueError, match="not a number"):
        case.wanted()
    assert np.isnan(computed(case, case.model())[1]).all()


@pytest.mark.parametrize("op_type", ops.MIXTURES)
def test_every_variant_has_a_schema(op_type: str) -> None:
    schema = ops.schema(op_type)
    assert [parameter.name for parameter in schema.inputs] == ops.input_names(op_type)


@given(case=cases(st.integers(1, 12)))
def test_the_twin_has_standard_ops_alone_and_computes_the_same(case: Case) -> None:
    model = ir.from_proto(case.model(17))
    verify_model(model, "the test")
    twin = twin_of(model)
    assert not any(ops.is_ours(node) for node in twin.graph.all_nodes())
    verify_model(twin, "the twin")
    got = computed(case, ir.to_proto(twin))
    np.testing.assert_allclose(got, case.wanted(), rtol=1e-5, atol=2e-5)


def test_two_of_a_kind_have_a_twin() -> None:
    """The loops of both have names of their own."""
    case = drawn(tokens=5, experts=3, chosen=2, gated=True, bias=True)
    proto = case.model()
    second = onnx.NodeProto.FromString(proto.graph.node[0].SerializeToString())
    proto.graph.node[0].output[0] = second.input[0] = "between"
    second.name = "second"
    proto.graph.node.append(second)
    twin = twin_of(ir.from_proto(proto))
    verify_model(twin, "the twin")
    wanted = Case(case.activation, case.arrays | {"X": case.wanted()}).wanted()
    np.testing.assert_allclose(computed(case, ir.to_proto(twin)), wanted, rtol=1e-4, atol=1e-4)


def test_shapes_are_inferred_with_open_sizes() -> None:
    model = ir.from_proto(drawn(tokens=6, experts=3, chosen=2).model())
    model.graph.outputs[0].shape = None
    ShapeInference().call(model, Context())
    assert str(model.graph.outputs[0].shape) == "[tokens,8]"


WRONG = {
    "chosen": ({"gates": np.ones((6, 3))}, "k is 3, and 2 in experts"),
    "tokens": ({"experts": np.zeros((5, 2), np.int64)}, "T is 5, and 6 in X"),
    "features": ({"up": np.ones((3, 16, 7))}, "d is 7, and 8 in X"),
    "turned": ({"down": np.ones((3, 16, 8))}, "d is 16, and 8 in X"),
    "experts": ({"down": np.ones((2, 8, 16))}, "E is 2, and 3 in up"),
    "rank": ({"X": np.ones((1, 6, 8))}, r"expected \[T, d\]"),
    "none": ({"up": np.ones((0, 16, 8))}, "E is empty"),
    "type": ({"experts": np.zeros((6, 2), np.int32)}, "expected INT64"),
    "bias": (
        {"up_bias": np.ones((3, 8)), "down_bias": np.ones((3, 8))},
        "f is 8, and 16 in up",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_contradicts_itself_is_found(what: str) -> None:
    arrays, said = WRONG[what]
    case = drawn(tokens=6, experts=3, chosen=2)
    model = ir.from_proto(Case(case.activation, case.arrays | arrays).model(tokens=6))
    for value in model.graph.inputs:
        array = (case.arrays | arrays)[str(value.name)]
        value.shape = ir.Shape(array.shape)
        if value.name == "experts":
            value.type = ir.TensorType(ir.tensor(array).dtype)
    with pytest.raises(VerificationError, match=said):
        verify_model(model, "the test")


def test_chosen_experts_that_are_constant_are_checked() -> None:
    case = drawn(tokens=6, experts=3, chosen=2)
    model = ir.from_proto(case.model(tokens=6))
    node = model.graph[0]
    wrong = ir.tensor(np.full((6, 2), 3, np.int64), name="wrong")
    value = ir.Value(name="wrong", type=ir.TensorType(wrong.dtype), shape=wrong.shape)
    value.const_value = wrong
    model.graph.initializers.add(value)
    node.replace_input_with(1, value)
    with pytest.raises(VerificationError, match="outside of 0 … 2"):
        verify_model(model, "the test")
