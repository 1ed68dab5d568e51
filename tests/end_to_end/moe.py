"""A small model around one mixture of experts, with a router in front."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops
from tests.sparsecc.ops.moe_cases import Case, drawn

FEATURES, HIDDEN, EXPERTS, CHOSEN = 32, 48, 6, 2


def layer(
    *, gated: bool = True, bias: bool = True, sizes: tuple[int, int] = (FEATURES, HIDDEN)
) -> onnx.ModelProto:
    """Softmax, TopK and a mixture of experts of ``[tokens, features]``, with a residual."""
    features, hidden = sizes
    case = drawn(
        tokens=1,
        experts=EXPERTS,
        chosen=CHOSEN,
        features=features,
        hidden=hidden,
        gated=gated,
        bias=bias,
    )
    return with_router(case)


def with_router(case: Case) -> onnx.ModelProto:
    """The weights of a case behind a router."""
    node, experts, features = helper.make_node, *case.arrays["up"].shape[::2]
    names = ops.input_names(case.op_type)
    weights: dict[str, Any] = {name: case.feeds()[name] for name in names if name not in ops.ROUTED}
    rng = np.random.default_rng(3)
    weights["router"] = rng.standard_normal((features, experts)).astype(np.float32)
    weights["k"] = np.array([case.arrays["experts"].shape[1]], np.int64)
    nodes = [
        node("MatMul", ["x", "router"], ["scores"], "route"),
        node("Softmax", ["scores"], ["shares"], "share", axis=-1),
        node("TopK", ["shares", "k"], ["gates", "experts"], "choose"),
        node(
            case.op_type, ["x", "experts", "gates", *names[3:]], ["mixed"], "moe", domain=ops.DOMAIN
        ),
        node("Add", ["mixed", "x"], ["y"], "residual"),
    ]
    info = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes,
            "layer",
            [info("x", TensorProto.FLOAT, ["tokens", features])],
            [info("y", TensorProto.FLOAT, ["tokens", features])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        functions=[ops.function(case.op_type, 17)],
        ir_version=8,
    )


def feeds(tokens: int, features: int = FEATURES) -> dict[str, Any]:
    """Inputs of :func:`layer`."""
    return {"x": np.random.default_rng(tokens).standard_normal((tokens, features), np.float32)}
