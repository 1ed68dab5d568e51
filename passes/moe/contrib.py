"""com.microsoft.MoE and QMoE as routing in standard ops and the op of this domain.

The definition is that of the operator's schema in ONNX Runtime and, where that leaves a choice
open (GELU by tanh, a softmax over all experts before the best are taken), of its CPU kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import ModelError
from sparsecc.passes.edit import constant
from sparsecc.passes.moe.dequantize import experts_of_qmoe
from sparsecc.passes.moe.write import Experts, mixture, rows
from sparsecc.passes.tape import Tape

DOMAIN = "com.microsoft"
PLAIN, QUANTISED = "MoE", "QMoE"
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu_tanh", "silu": "silu", "identity": "none"}
_GATED = "swiglu"
_INPUTS = 8
_INTERLEAVED, _HALVES = 1, 2

Array = NDArray[np.floating]


def is_contrib(node: ir.Node) -> bool:
    """Whether a node is ONNX Runtime's mixture of experts."""
    return node.domain == DOMAIN and node.op_type in (PLAIN, QUANTISED)


def lower(node: ir.Node) -> str | None:
    """Put the op in the node's place; a clause that says why not where it stays.

    Raises:
        ModelError: It chooses more experts than there are, or gets scores of another number.
    """
    inputs = [*node.inputs, *[None] * _INPUTS][:_INPUTS]
    x, scores = inputs[:2]
    if x is None or scores is None or {x.dtype, scores.dtype} != {ir.DataType.FLOAT}:
        return "a mixture of experts on a type that is not known to be float32"
    if node.attributes.get_int("use_sparse_mixer", 0):
        return "a mixture of experts with the sparse mixer's routing"
    weights = experts_of_qmoe(node) if node.op_type == QUANTISED else _weights(inputs[2:])
    experts = weights if isinstance(weights, str) else _experts(node, weights)
    if isinstance(experts, str):
        return experts
    if x.shape is None or x.shape[-1] != experts.features:
        return f"tokens that are not known to have the {experts.features} features of its experts"
    chosen = node.attributes.get_int("k", 1)
    if not 1 <= chosen <= experts.count:
        raise ModelError(
            f"{node.op_type} chooses {chosen} of {experts.count} experts",
            node=node.name,
            fix="set k to a number of experts that there are",
        )
    offered = scores.shape[-1] if scores.shape else None
    if isinstance(offered, int) and offered != experts.count:
        raise ModelError(
            f"{node.op_type} has {experts.count} experts, and {scores.name!r} scores of {offered}",
            node=node.name,
            fix="give it a score for each expert",
        )
    _rewrite(node, x, scores, chosen, experts)
    return None


def _weights(inputs: Sequence[ir.Value | None]) -> list[Array | None] | str:
    weights = [constant(value) for value in inputs]
    if any(w is None and v is not None for w, v in zip(weights, inputs, strict=True)):
        return "experts whose weights are computed"
    return weights


def _experts(node: ir.Node, weights: Sequence[Array | None]) -> Experts | str:
    """What the experts compute; why it is nothing that the op can say."""
    read = node.attributes
    first, first_bias, last, last_bias, third, third_bias = weights
    if first is None or last is None:
        return "a mixture of experts without weights"
    kind = read.get_string("activation_type", "relu")
    parts = {"up": first, "down": last, "gate": third}
    biases = {"up_bias": first_bias, "down_bias": last_bias, "gate_bias": third_bias}
    fused = read.get_int("swiglu_fusion", 0)
    if kind == _GATED and third is None:
        if fused not in (_INTERLEAVED, _HALVES):
            return "gated experts whose weights are in one but not said to be fused"
        parts |= zip(("up", "gate"), _unpacked(first, fused), strict=True)
        if first_bias is not None:
            biases |= zip(("up_bias", "gate_bias"), _unpacked(first_bias, fused), strict=True)
    elif kind not in ({_GATED, "silu"} if third is not None else _ACTIVATIONS):
        return f"experts with the activation {kind!r}"
    wrong = _misfit(parts)
    if wrong:
        return wrong
    held = {name: array for name, array in (parts | biases).items() if array is not None}
    if kind != _GATED:
        return Experts(_ACTIVATIONS[kind], held)
    if math.isfinite(read.get_float("swiglu_limit", math.inf)):
        return "experts that clamp what their gates multiply"
    slope, shift = read.get_float("activation_alpha", 1.0), read.get_float("activation_beta", 0.0)
    return _scaled(held, slope, shift)


def _unpacked(both: Array, fused: int) -> tuple[Array, Array]:
    """What is activated and what multiplies it, of rows that hold both."""
    if fused == _INTERLEAVED:
        return both[:, 0::2], both[:, 1::2]
    half = both.shape[1] // 2
    return both[:, :half], both[:, half:]


def _misfit(parts: dict[str, Array | None]) -> str | None:
    up, down, gate = parts["up"], parts["down"], parts["gate"]
    assert up is not None
    assert down is not None
    if up.ndim != 3 or down.shape != (up.shape[0], up.shape[2], up.shape[1]):
        return (
            f"experts of unequal shapes: {list(up.shape)} and {list(down.shape)}, not "
            "[experts, inner, features] and [experts, features, inner]"
        )
    if gate is not None and gate.shape != up.shape:
        return f"experts of unequal shapes: {list(up.shape)} and {list(gate.shape)}"
    return None


def _scaled(held: dict[str, Array], slope: float, shift: float) -> Experts:
    """Slope and shift in the weights: g σ(αg) (l + β) is 1/α silu(αg) (l + β)."""
    if shift:
        bias = held.get("gate_bias", np.zeros(held["gate"].shape[:2], np.float32))
        held["gate_bias"] = bias + np.float32(shift)
    if slope != 1.0:
        for name in ("up", "up_bias"):
            if name in held:
                held[name] = held[name] * np.float32(slope)
        held["down"] = held["down"] / np.float32(slope)
    return Experts("silu", held)


def _rewrite(node: ir.Node, x: ir.Value, scores: ir.Value, k: int, experts: Experts) -> None:
    tape = Tape(node)
    shares = tape.op("Softmax", scores, axis=-1)
    gates, chosen = tape.ops("TopK", shares, tape.ints(k), outputs=2, axis=-1)
    # Its CPU kernel normalises the gates of quantised experts whatever is asked for.
    asked = node.attributes.get_int("normalize_routing_weights", 0)
    if asked or node.op_type == QUANTISED:
        gates = tape.op("Div", gates, tape.op("ReduceSum", gates, tape.ints(-1), keepdims=1))
    made = mixture(tape, rows(tape, x, experts.features), chosen, gates, experts)
    tape.op("Reshape", made, tape.op("Shape", x))
    tape.finish()
