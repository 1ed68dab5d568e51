"""BlockSparseAttention: its body in ONNX Runtime is its numpy meaning; what is wrong is said."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import ops
from sparsecc.passes.base import Context
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.verifier import VerificationError, verify_model
from sparsecc.passes.weights.to_dense import twin_of
from tests.sparsecc.ops.attention_cases import Case, cases

RULE = {"left": ops.UNBOUNDED, "right": ops.UNBOUNDED, "sinks": 0}


def plain(**arrays: np.ndarray) -> Case:
    rng = np.random.default_rng(0)
    tokens = {name: rng.standard_normal((1, 2, 6, 4)) for name in "QKV"}
    return Case(tokens | arrays, {"scale": 0.5, **RULE})


def computed(case: Case, proto: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString())
    names = {each.name for each in session.get_inputs()}
    (got,) = session.run(None, {k: v for k, v in case.feeds().items() if k in names})
    return got


@given(
    case=cases(),
    opset=st.sampled_from([13, 17, 18, 21, 23]),
    fixed=st.sampled_from([("grid",), ("grid", "index"), ("grid", "index", "mask")]),
)
def test_the_body_computes_the_numpy_meaning(
    case: Case, opset: int, fixed: tuple[str, ...]
) -> None:
    got = computed(case, case.model(opset, fixed))
    np.testing.assert_allclose(got, case.wanted(), rtol=0, atol=2e-5)


@given(case=cases())
def test_attention_is_softmax_over_the_keys_that_are_seen(case: Case) -> None:
    """The meaning itself, query by query from its definition."""
    a, (batch, heads, queries, _) = case.arrays, case.arrays["Q"].shape
    share, rule = heads // a["K"].shape[1], case.attributes
    wanted = np.zeros(a["Q"].shape)
    for b, h, i in np.ndindex(batch, heads, queries):
        keys, values = a["K"][b, h // share], a["V"][b, h // share]
        j = np.arange(len(keys))
        seen = j <= i + rule["right"]
        seen &= (j >= i - rule["left"]) | (j < rule["sinks"])
        if "index" in a:
            of, down, across, rows, columns = a["grid"]
            block = ((h if of > 1 else 0) * down + i // rows) * across + j // columns
            seen &= np.isin(block, a["index"])
        scores = rule["scale"] * (keys @ a["Q"][b, h, i])
        if "mask" in a:
            scores = (
                scores + np.broadcast_to(a["mask"], (batch, heads, queries, len(keys)))[b, h, i]
            )
        seen &= scores > ops.LEAST_SCORE
        if seen.any():
            weights = np.exp(scores[seen] - scores[seen].max())
            wanted[b, h, i] = weights / weights.sum() @ values[seen]
    np.testing.assert_allclose(case.wanted(), wanted, rtol=1e-9, atol=1e-12)


def test_a_query_without_a_key_gives_zeros() -> None:
    case = plain(index=np.array([-1], np.int32), grid=np.array([1, 2, 2, 4, 4], np.int64))
    assert not computed(case, case.model(17)).any()
    assert not case.wanted().any()


def test_what_is_no_number_stays_none() -> None:
    case = plain()
    case.arrays["Q"][0, 0, 2] = np.nan
    got = computed(case, case.model(17))
    assert np.isnan(got[0, 0, 2]).all()
    assert np.isfinite(np.delete(got[0, 0], 2, axis=0)).all()
    np.testing.assert_allclose(got, case.wanted(), atol=1e-5)


@pytest.mark.parametrize("op_type", [name for name in ops.OP_TYPES if name in ops.ATTENTIONS])
def test_every_variant_has_a_schema(op_type: str) -> None:
    schema = ops.schema(op_type)
    assert [parameter.name for parameter in schema.inputs] == ops.input_names(op_type)
    assert set(schema.attributes) == {"scale", *RULE}


@given(case=cases(st.integers(1, 12)))
def test_the_twin_has_standard_ops_alone_and_computes_the_same(case: Case) -> None:
    model = ir.from_proto(case.model(17))
    verify_model(model, "the test")
    twin = twin_of(model)
    assert not any(ops.is_ours(node) for node in twin.graph.all_nodes())
    verify_model(twin, "the twin")
    got = computed(case, ir.to_proto(twin))
    np.testing.assert_allclose(got, case.wanted(), rtol=0, atol=2e-5)


def test_shapes_are_inferred_with_open_sizes() -> None:
    model = ir.from_proto(plain().model(17))
    q = model.graph.inputs[0]
    q.shape = ir.Shape([1, 2, "tokens", 4])
    model.graph.outputs[0].shape = None
    ShapeInference().call(model, Context())
    assert str(model.graph.outputs[0].shape) == "[1,2,tokens,4]"


BLOCKS = {"index": np.array([0, 3], np.int32), "grid": np.array([1, 2, 2, 4, 4], np.int64)}
WRONG = {
    "heads of keys": ({"K": np.ones((1, 3, 6, 4)), "V": np.ones((1, 3, 6, 4))}, "2 heads"),
    "keys and values": ({"V": np.ones((1, 2, 5, 4))}, "disagree in dimension 2"),
    "features": ({"K": np.ones((1, 2, 6, 3))}, "disagree in dimension 3"),
    "rank": ({"Q": np.ones((2, 6, 4))}, "expected .B, heads"),
    "mask": ({"mask": np.ones((1, 2, 5, 6))}, "does not spread"),
    "descending": (BLOCKS | {"index": np.array([3, 0], np.int32)}, "not ascending"),
    "hole": (BLOCKS | {"index": np.array([0, -1, 3], np.int32)}, "not ascending"),
    "beyond": (BLOCKS | {"index": np.array([0, 4], np.int32)}, "not ascending"),
    "cover": (BLOCKS | {"grid": np.array([1, 2, 2, 4, 2], np.int64)}, "do not cover 6 keys"),
    "grid of heads": (BLOCKS | {"grid": np.array([3, 2, 2, 4, 4], np.int64)}, "grid has 3 heads"),
    "no grid": (BLOCKS | {"grid": np.array([1, 2, 2, 0, 4], np.int64)}, "empty"),
    "huge": (BLOCKS | {"grid": np.array([1, 2**40, 2, 4, 4], np.int64)}, "too large"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_contradicts_itself_is_found(what: str) -> None:
    arrays, said = WRONG[what]
    model = ir.from_proto(plain(**arrays).model(17, ("grid", "index")))
    with pytest.raises(VerificationError, match=said):
        verify_model(model, "the test")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sinks": -1}, "less than no sinks"),
        ({"left": 2**40}, "beyond 32 bits"),
        ({"scale": float("inf")}, "the scale is inf"),
        ({"scale": 2}, "no float"),
        ({"more": 1}, "wants the attributes"),
    ],
)
def test_attributes_are_checked(change: dict[str, float], said: str) -> None:
    case = plain()
    model = ir.from_proto(Case(case.arrays, case.attributes | change).model(17))
    with pytest.raises(VerificationError, match=said):
        verify_model(model, "the test")
