"""com.microsoft.MoE against ONNX Runtime's own kernel."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.errors import ModelError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run

FEATURES, INNER, EXPERTS, TOKENS = 16, 24, 5, 12
NAMES = ("x", "scores", "fc1", "fc1_bias", "fc2", "fc2_bias", "fc3", "fc3_bias")


def weights(fused: bool = False, bias: bool = True, third: bool = False) -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(0), INNER * (2 if fused else 1)
    shapes = {"fc1": (EXPERTS, rows, FEATURES), "fc2": (EXPERTS, FEATURES, INNER)}
    shapes |= {"fc3": (EXPERTS, INNER, FEATURES)} if third else {}
    shapes |= {f"{name}_bias": shape[:2] for name, shape in shapes.items()} if bias else {}
    return {n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in shapes.items()}


def model(held: dict[str, np.ndarray], rank: int = 2, **attributes: float | str) -> onnx.ModelProto:
    lead = [TOKENS] if rank == 2 else [3, TOKENS // 3]
    info = helper.make_tensor_value_info
    node = helper.make_node(
        "MoE",
        [name if name in held or name in NAMES[:2] else "" for name in NAMES],
        ["y"],
        "moe",
        domain="com.microsoft",
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "case",
        [
            info("x", TensorProto.FLOAT, [*lead, FEATURES]),
            info("scores", TensorProto.FLOAT, [TOKENS, EXPERTS]),
        ],
        [info("y", TensorProto.FLOAT, [*lead, FEATURES])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def feeds(proto: onnx.ModelProto, *, lean: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {}
    for value in proto.graph.input:
        dims = [each.dim_value for each in value.type.tensor_type.shape.dim]
        found[value.name] = rng.standard_normal(dims).astype(np.float32)
    if lean:
        found["scores"] = np.tile(np.arange(EXPERTS, dtype=np.float32), (TOKENS, 1))
    return found


def lowered(proto: onnx.ModelProto) -> tuple[ort.InferenceSession, list[str], Context]:
    graph, context = capture(proto), Context(verify=True)
    run(pipeline.EXACT_BEFORE, graph, context)
    kinds = [f"{node.domain}.{node.op_type}" for node in graph.graph]
    ops.attach_functions(graph)
    return session_of_model(graph, threads=1), kinds, context


CASES = {
    **{kind: (weights(), {"activation_type": kind}) for kind in ("relu", "gelu", "silu")},
    "identity": (weights(bias=False), {"activation_type": "identity", "k": 1}),
    "all experts": (weights(), {"activation_type": "silu", "k": EXPERTS}),
    "gated": (weights(fused=True), {"activation_type": "swiglu", "swiglu_fusion": 1}),
    "gated, with a slope": (
        weights(fused=True),
        {
            "activation_type": "swiglu",
            "swiglu_fusion": 1,
            "activation_alpha": 1.702,
            "activation_beta": 1.0,
        },
    ),
    "gated, with a slope and no bias": (
        weights(fused=True, bias=False),
        {
            "activation_type": "swiglu",
            "swiglu_fusion": 1,
            "activation_alpha": 1.702,
            "activation_beta": 1.0,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("normalised", [0, 1])
def test_it_computes_what_onnx_runtime_does(case: str, rank: int, normalised: int) -> None:
    held, attributes = CASES[case]
    proto = model(held, rank, normalize_routing_weights=normalised, **{"k": 2} | attributes)
    peer = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    session, kinds, context = lowered(proto)
    assert "com.microsoft.MoE" not in kinds
    assert not context.refusals
    for lean in (False, True):
        given = feeds(proto, lean=lean)
        (wanted,), (made,) = peer.run(None, given), session.run(None, given)
        assert made.shape == wanted.shape
        assert np.abs(made - wanted).max() < 3e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("form", ["separate", "halves"])
def test_forms_that_onnx_runtime_has_no_kernel_for_agree_with_the_one_it_has(form: str) -> None:
    """The same gated experts: rows in turn, one half after the other, or two weights."""
    turns = weights(fused=True)
    first, bias = turns["fc1"], turns["fc1_bias"]
    common = {"k": 2, "activation_type": "swiglu"}
    peer = model(turns, swiglu_fusion=1, **common)
    halves = (np.concatenate([a[:, ::2], a[:, 1::2]], axis=1) for a in (first, bias))
    if form == "halves":
        held = turns | dict(zip(("fc1", "fc1_bias"), halves, strict=True))
        proto = model(held, swiglu_fusion=2, **common)
    else:
        parts = {"fc1": first[:, ::2], "fc1_bias": bias[:, ::2]}
        parts |= {"fc3": first[:, 1::2], "fc3_bias": bias[:, 1::2]}
        proto = model(turns | parts, **common)
    given = feeds(peer)
    wanted = ort.InferenceSession(peer.SerializeToString()).run(None, given)[0]
    session, kinds, _ = lowered(proto)
    assert "sparsecc.MoE_silu_gated_bias" in kinds
    assert np.abs(session.run(None, given)[0] - wanted).max() < 3e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("held", "attributes", "reason"),
    [
        (weights(fused=True), {"activation_type": "swiglu", "swiglu_limit": 7.0}, "clamp"),
        (weights(), {"activation_type": "silu", "use_sparse_mixer": 1}, "sparse mixer"),
        (
            weights() | {"fc2": np.zeros((EXPERTS, INNER, FEATURES), np.float32)},
            {"activation_type": "silu"},
            "unequal shapes: [5, 24, 16] and [5, 24, 16]",
        ),
        (
            {n: a.swapaxes(1, 2) if a.ndim == 3 else a for n, a in weights(bias=False).items()},
            {"activation_type": "silu"},
            "not known to have the 24 features",
        ),
    ],
)
def test_others_stay_with_the_reason(
    held: dict[str, np.ndarray], attributes: dict[str, float | str], reason: str
) -> None:
    proto = model(held, k=2, swiglu_fusion=1, **attributes)
    graph, context = capture(proto), Context(verify=True)
    run(pipeline.EXACT_BEFORE, graph, context)
    assert [node.op_type for node in graph.graph] == ["MoE"]
    (refusal,) = (each for each in context.refusals if each.pass_name == "mixtures")
    assert reason in refusal.reason
    assert refusal.node == "moe"


def test_more_experts_than_there_are_is_an_error() -> None:
    graph = capture(model(weights(), k=EXPERTS + 1, activation_type="silu"))
    with pytest.raises(ModelError, match="chooses 6 of 5 experts") as raised:
        run(pipeline.EXACT_BEFORE, graph, Context())
    assert raised.value.node == "moe"


def test_scores_of_another_number_of_experts_are_an_error() -> None:
    proto = model(weights(), k=2, activation_type="silu")
    proto.graph.input[1].type.tensor_type.shape.dim[1].dim_value = EXPERTS + 2
    with pytest.raises(ModelError, match="has 5 experts, and 'scores' scores of 7") as raised:
        run(pipeline.EXACT_BEFORE, capture(proto), Context())
    assert raised.value.node == "moe"
