"""Experts are packed as one weight; blocks are of one of them, and zeros go where it pays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import ops, targets
from sparsecc.passes.base import Context, run
from sparsecc.passes.verifier import VerificationError, verify_model
from sparsecc.passes.weights.pack_mixtures import PackMixtures, mixture_rows
from sparsecc.passes.weights.to_dense import twin_of
from tests.sparsecc.ops.moe_cases import Case, cases, drawn

TARGET = targets.TARGETS["x86-64"]


def packed(case: Case) -> tuple[ir.Model, Context]:
    model, ctx = ir.from_proto(case.model(18)), Context(target=TARGET, verify=True)
    run([PackMixtures(TARGET)], model, ctx)
    return model, ctx


def computed(case: Case, model: ir.Model) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    feeds = case.feeds()
    (got,) = session.run(None, {name: feeds[name] for name in ops.ROUTED})
    return got


@given(case=cases(), sparse=st.booleans())
def test_body_and_twin_compute_the_same(case: Case, sparse: bool) -> None:
    if sparse:
        case.arrays["up"][:, ::2] = 0
    model, _ = packed(case)
    (node,) = model.graph
    assert ops.is_packed_mixture(node)
    ops.attach_functions(model)
    verify_model(model, "the test")
    for each in (model, twin_of(model)):
        np.testing.assert_allclose(computed(case, each), case.wanted(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("hidden", "features", "block"), [(48, 32, 16), (48, 8, 8), (20, 8, 4), (6, 10, 2), (5, 16, 1)]
)
def test_a_block_is_of_one_expert(hidden: int, features: int, block: int) -> None:
    case = drawn(tokens=4, experts=3, chosen=1, hidden=hidden, features=features)
    (node,) = packed(case)[0].graph
    assert {weight.block for weight in ops.packed_mixture(node).values()} == {(block, 1)}


@pytest.mark.parametrize(("block", "density"), [((16, 1), 0.3), ((4, 1), 0.2), ((16, 1), 0.97)])
def test_zeros_are_left_out_where_there_are_enough(block: tuple[int, int], density: float) -> None:
    case = drawn(tokens=64, experts=4, chosen=2, hidden=128, features=64, gated=True)
    rng = np.random.default_rng(0)
    for name in ("up", "gate", "down"):
        experts, rows, columns = case.arrays[name].shape
        kept = rng.random((experts, rows // block[0], columns)) < density
        case.arrays[name] *= np.repeat(kept, block[0], axis=1)
    model, _ = packed(case)
    (row,) = mixture_rows(model, TARGET).values()
    few = density < 0.9
    assert row.kernel == f"moe-{block[0]}x{block[1]}"
    assert row.density == pytest.approx(density if few else 1.0, abs=0.02)
    assert row.est_ms < row.dense_ms


def test_weights_that_are_computed_are_left_alone() -> None:
    case = drawn(tokens=4, experts=3, chosen=1)
    proto = case.model()
    weight = proto.graph.initializer.pop(0)
    proto.graph.input.add(name=weight.name).type.tensor_type.elem_type = 1
    model, ctx = ir.from_proto(proto), Context(target=TARGET)
    run([PackMixtures(TARGET)], model, ctx)
    assert model.graph[0].op_type == case.op_type
    assert [(each.node, each.reason) for each in ctx.refusals] == [
        ("moe", "the weights of its experts are not constant")
    ]


def no_multiple(node: ir.Node) -> None:
    node.attributes["experts_count"] = ir.AttrInt64("experts_count", 5)


def fewer_experts(node: ir.Node) -> None:
    node.attributes["experts_count"] = ir.AttrInt64("experts_count", 1)


def without_a_bias(node: ir.Node) -> None:
    node.replace_input_with(7, node.inputs[12])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_multiple, "no multiple of 5 experts"),
        (fewer_experts, "d is 24, and 8 in X"),
        (without_a_bias, "up_bias is not one number for each of 48 rows"),
    ],
)
def test_what_contradicts_itself_is_found(change, said: str) -> None:
    model, _ = packed(drawn(tokens=6, experts=3, chosen=2))
    change(model.graph[0])
    with pytest.raises(VerificationError, match=said):
        verify_model(model, "the test")


@pytest.mark.parametrize("op_type", [*ops.MIXTURES, *ops.PACKED_MIXTURES])
def test_names_say_what_is_computed(op_type: str) -> None:
    activation, gated = ops.parse_mixture(op_type)
    variant = ops.moe_variant(activation, gated=gated, bias=op_type.endswith("_bias"))
    assert op_type in (variant, ops.sparse_moe_variant(activation, gated=gated))
    assert (
        "gate" in ops.input_names(op_type) or "gate_values" in ops.input_names(op_type)
    ) == gated
