"""com.microsoft.MultiHeadAttention against ONNX Runtime's own kernel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops, targets
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.attention import constant_masks
from sparsecc.passes.base import Context, run

BATCH, QUERIES, KEYS, HEADS, DIM = 2, 7, 11, 4, 8
WIDTH = HEADS * DIM
RNG = np.random.default_rng(0)
Arrays = Mapping[str, NDArray[np.generic]]


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


FLAT = {"query": floats(BATCH, QUERIES, WIDTH), "key": floats(BATCH, KEYS, WIDTH)}
FLAT |= {"value": floats(BATCH, KEYS, WIDTH)}
KEPT = RNG.random((BATCH, KEYS)) < 0.6
KEPT[:, 0] = True
FORMS: dict[str, tuple[Arrays, Mapping[str, float]]] = {
    "separate": (FLAT, {}),
    "scaled": (FLAT, {"scale": 0.3}),
    "keys by head": (
        {
            "query": FLAT["query"],
            "key": floats(BATCH, HEADS, KEYS, DIM),
            "value": floats(BATCH, HEADS, KEYS, DIM),
        },
        {},
    ),
    "bias": (FLAT | {"bias": floats(3 * WIDTH)}, {}),
    "wider values": (
        FLAT | {"value": floats(BATCH, KEYS, 2 * WIDTH), "bias": floats(4 * WIDTH)},
        {},
    ),
    "mask of keys": (FLAT | {"key_padding_mask": KEPT.astype(np.int32)}, {}),
    "mask of keys with a value": (
        FLAT | {"key_padding_mask": KEPT.astype(np.int32)},
        {"mask_filter_value": -3.0},
    ),
    "added": (FLAT | {"attention_bias": floats(1, HEADS, QUERIES, KEYS)}, {}),
    "causal": (dict.fromkeys(FLAT, FLAT["query"]), {"unidirectional": 1}),
}
NAMES = ("query", "key", "value", "bias", "key_padding_mask", "attention_bias")


def model(arrays: Arrays, attributes: Mapping[str, float], fixed: str = "bias") -> onnx.ModelProto:
    given = {name: array for name, array in arrays.items() if name != fixed}
    ports = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in given.items()
    ]
    node = helper.make_node(
        "MultiHeadAttention",
        [name if name in arrays else "" for name in NAMES],
        ["y"],
        "attention",
        domain="com.microsoft",
        num_heads=HEADS,
        **attributes,
    )
    constants = [numpy_helper.from_array(arrays[fixed], fixed)] if fixed in arrays else []
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, QUERIES, None])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", ports, [output], constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def outputs(content: bytes, given: Arrays) -> NDArray[np.float32]:
    return ort.InferenceSession(content).run(None, dict(given))[0]


@pytest.mark.parametrize("name", FORMS)
def test_it_computes_what_the_kernel_of_onnx_runtime_does(name: str) -> None:
    arrays, attributes = FORMS[name]
    proto = model(arrays, attributes)
    graph, ctx = capture(proto), Context(verify=True)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    assert not ctx.refusals
    assert {node.domain for node in graph.graph} == {""}
    given = {each: array for each, array in arrays.items() if each != "bias"}
    want = outputs(proto.SerializeToString(), given)
    got = outputs(ir.to_proto(graph).SerializeToString(), given)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def unpacked(packed: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """[B, L, heads, parts, features] → parts, [B, L, heads · features]."""
    return [packed[:, :, :, at].reshape(*packed.shape[:2], -1) for at in range(packed.shape[3])]


@pytest.mark.parametrize("parts", [2, 3])
def test_packed_operands_are_taken_apart(parts: int) -> None:
    """ONNX Runtime has no kernel for them on processors: the separate ones are the oracle."""
    packed = floats(BATCH, QUERIES, HEADS, parts, DIM)
    arrays = {"query": packed} if parts == 3 else {"query": FLAT["query"], "key": packed}
    every = unpacked(packed) if parts == 3 else [FLAT["query"], *unpacked(packed)]
    separate = dict(zip(FLAT, every, strict=True))
    graph = capture(model(arrays, {}))
    run(pipeline.EXACT_BEFORE, graph, Context(verify=True))
    want = outputs(model(separate, {}).SerializeToString(), separate)
    got = outputs(ir.to_proto(graph).SerializeToString(), arrays)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


DECLINED: dict[str, tuple[Arrays, Mapping[str, float]]] = {
    "with packed inputs and a bias": (
        {"query": FLAT["query"], "key": floats(BATCH, KEYS, HEADS, 2, DIM)}
        | {"bias": floats(3 * WIDTH)},
        {},
    ),
    "with lengths in the place of a mask": (
        FLAT | {"key_padding_mask": np.array([3, 5], np.int32)},
        {},
    ),
    "between sequences not known to be as long": (FLAT, {"unidirectional": 1}),
}


@pytest.mark.parametrize("reason", DECLINED)
def test_other_forms_stay_with_the_reason(reason: str) -> None:
    graph, ctx = capture(model(*DECLINED[reason])), Context(verify=True)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    assert [node.op_type for node in graph.graph] == ["MultiHeadAttention"]
    assert [refusal.reason for refusal in ctx.refusals if reason in refusal.reason]


def test_a_causal_one_skips_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constant_masks, "LEAST_GAIN", 0.0)
    arrays, attributes = FORMS["causal"]
    proto = model(arrays, attributes)
    graph, ctx = capture(proto), Context(target=targets.TARGETS["x86-64"], verify=True)
    run([*pipeline.EXACT_BEFORE, *pipeline.EXACT_AFTER], graph, ctx)
    ops.attach_functions(graph)
    (node,) = (node for node in graph.graph if ops.is_attention(node))
    assert node.attributes["right"].as_int() == 0
    want = outputs(proto.SerializeToString(), arrays)
    got = outputs(ir.to_proto(graph).SerializeToString(), arrays)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
