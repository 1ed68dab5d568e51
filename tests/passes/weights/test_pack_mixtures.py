"""Experts are packed as one weight; blocks are of one of them, and zeros go where it pays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import ops, targets
from sparsecc.passes import edit
from sparsecc.passes.base import Context, run
from sparsecc.passes.verifier import VerificationError, verify_model
from sparsecc.passes.weights.pack_mixtures import PackMixtures, mixture_rows
from sparsecc.passes.weights.to_dense import twin_of
from tests.sparsecc.ops.moe_cases import Case, cases, drawn, of_codes

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


SIXTEENS = st.integers(1, 3).map(lambda n: 16 * n)


@given(
    case=cases(st.integers(0, 9), SIXTEENS, SIXTEENS),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([None, 16, 32]),
    sparse=st.booleans(),
)
def test_codes_are_kept_as_codes(case: Case, bits: int, group: int | None, sparse: bool) -> None:
    if sparse and group is None:  # with a scale for several inputs, numbers may be quicker
        case.arrays["up"][:] = 0
    case = of_codes(case, bits, group)
    model, _ = packed(case)
    (node,) = model.graph
    assert ops.bits_of(node.op_type) == bits
    ops.attach_functions(model)
    verify_model(model, "the test")
    for each in (model, twin_of(model)):
        np.testing.assert_allclose(computed(case, each), case.wanted(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("bits", "block"), [(8, (16, 1)), (4, (16, 2))])
def test_codes_of_pruned_experts_leave_blocks_out(bits: int, block: tuple[int, int]) -> None:
    case = drawn(tokens=64, experts=4, chosen=2, hidden=128, features=64)
    rng = np.random.default_rng(0)
    for name in ("up", "down"):
        experts, rows, columns = case.arrays[name].shape
        kept = rng.random((experts, rows // 16, columns // 2)) < 0.3
        case.arrays[name] *= np.repeat(np.repeat(kept, 16, axis=1), 2, axis=2)
    model, _ = packed(of_codes(case, bits))
    (row,) = mixture_rows(model, TARGET).values()
    assert row.kernel == f"moe-16x{block[1]}-int{bits}"
    assert 0.2 < row.density < 0.4


def test_experts_that_are_no_multiples_of_16_rows_become_numbers() -> None:
    case = of_codes(drawn(tokens=4, experts=3, chosen=1, hidden=24, features=32), 8)
    (node,) = packed(case)[0].graph
    assert ops.bits_of(node.op_type) is None


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


def other_scales(node: ir.Node) -> None:
    node.replace_input_with(8, edit.new_initializer(node, "other", np.ones((3, 2, 16), np.float32)))


def other_group(node: ir.Node) -> None:
    node.attributes["inputs_per_scale"] = ir.AttrInt64("inputs_per_scale", 8)


def codes_of_other_bits(node: ir.Node) -> None:
    node.replace_input_with(3, edit.new_initializer(node, "other", np.ones((48, 16), np.uint8)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_scales, r"up: scales of the shape \[3, 2, 16\], expected \[3, 1, 16\]"),
        (other_group, "up: 8 inputs share a scale, no multiple of 16"),
        (codes_of_other_bits, "up: codes of 8 bits in uint8"),
    ],
)
def test_codes_that_contradict_themselves_are_found(change, said: str) -> None:
    case = drawn(tokens=6, experts=3, chosen=2, hidden=16, features=16)
    model, _ = packed(of_codes(case, 8))
    change(model.graph[0])
    with pytest.raises(VerificationError, match=said):
        verify_model(model, "the test")


@pytest.mark.parametrize("op_type", [*ops.MIXTURES, *ops.PACKED_MIXTURES])
def test_names_say_what_is_computed(op_type: str) -> None:
    activation, gated = ops.parse_mixture(op_type)
    variant = ops.moe_variant(activation, gated=gated, bias=op_type.endswith("_bias"))
    bits = ops.bits_of(op_type)
    assert op_type in (variant, ops.sparse_moe_variant(activation, gated=gated, bits=bits))
    assert (
        "gate" in ops.input_names(op_type) or "gate_values" in ops.input_names(op_type)
    ) == gated
