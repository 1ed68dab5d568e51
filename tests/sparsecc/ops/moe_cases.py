"""Mixtures of experts drawn for tests: sizes, choices of every kind, variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops
from sparsecc.formats.codes import dequantized, round_to_codes
from sparsecc.ops.activations import ACTIVATIONS

NAMES = [activation.name for activation in ACTIVATIONS]
TOKENS, FEATURES = st.integers(0, 40), st.integers(1, 20)


@dataclass(frozen=True)
class Case:
    """Arrays by name of input, in float64 where they are numbers."""

    activation: str
    arrays: dict[str, np.ndarray]

    @property
    def op_type(self) -> str:
        return ops.moe_variant(
            self.activation, gated="gate" in self.arrays, bias="up_bias" in self.arrays
        )

    @property
    def routed(self) -> list[np.ndarray]:
        """What a model of the case reads: X, experts and gates."""
        return [self.arrays[name] for name in ops.ROUTED]

    def wanted(self) -> np.ndarray:
        weights = {name: a for name, a in self.arrays.items() if name not in ops.ROUTED}
        return ops.mixture(self.activation, *self.routed, weights)

    def feeds(self) -> dict[str, np.ndarray]:
        return {
            name: array if name == "experts" else array.astype(np.float32)
            for name, array in self.arrays.items()
        }

    def model(self, opset: int = 18, tokens: int | str = "tokens") -> Any:
        """A model of the op alone, whose weights are initializers."""
        feeds = self.feeds()
        x, experts, gates = (feeds[name] for name in ops.ROUTED)
        info = helper.make_tensor_value_info
        given = [
            info("X", TensorProto.FLOAT, [tokens, x.shape[1]]),
            info("experts", TensorProto.INT64, [tokens, experts.shape[1]]),
            info("gates", TensorProto.FLOAT, [tokens, gates.shape[1]]),
        ]
        names = ops.input_names(self.op_type)
        node = helper.make_node(self.op_type, names, ["Y"], name="moe", domain=ops.DOMAIN)
        y = info("Y", TensorProto.FLOAT, [tokens, x.shape[1]])
        weights = [numpy_helper.from_array(feeds[name], name) for name in names[3:]]
        return helper.make_model(
            helper.make_graph([node], "case", given, [y], weights),
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)],
            functions=[ops.function(self.op_type, opset)],
            ir_version=8,
        )


def drawn(
    *,
    tokens: int,
    experts: int,
    chosen: int,
    features: int = 8,
    hidden: int = 16,
    activation: str = "silu",
    gated: bool = False,
    bias: bool = False,
    spread: str = "any",
    seed: int = 0,
) -> Case:
    """A case of given sizes.

    Args:
        tokens: T.
        experts: E.
        chosen: k.
        features: d.
        hidden: f.
        activation: A name of ``ACTIVATIONS``.
        gated: Whether there is a gate.
        bias: Whether there are biases.
        spread: Which experts are chosen: ``any`` (the same one twice too), ``distinct`` ones, or
            ``one`` for all tokens.
        seed: Of the numbers.
    """
    rng = np.random.default_rng(seed)
    if spread == "distinct":
        order = np.argsort(rng.random((tokens, experts)), axis=1)
        routed = order[:, :chosen]
    elif spread == "one":
        routed = np.full((tokens, chosen), rng.integers(experts))
    else:
        routed = rng.integers(0, experts, (tokens, chosen))
    arrays: dict[str, np.ndarray] = {
        "X": rng.standard_normal((tokens, features)),
        "experts": routed.astype(np.int64),
        "gates": rng.random((tokens, chosen)),
        "up": rng.standard_normal((experts, hidden, features)) / np.sqrt(features),
        "down": rng.standard_normal((experts, features, hidden)) / np.sqrt(hidden),
    }
    if gated:
        arrays["gate"] = rng.standard_normal((experts, hidden, features)) / np.sqrt(features)
    if bias:
        products = ["up", *["gate"] * gated, "down"]
        for name in products:
            arrays[f"{name}_bias"] = rng.standard_normal(arrays[name].shape[:2])
    arrays = {
        name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()
    }
    exact = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    return Case(activation, exact)


def of_codes(case: Case, bits: int, group: int | None = None) -> Case:
    """The case with weights that are codes times scales, as a quantised model has them."""
    arrays = dict(case.arrays)
    for name in ("up", "gate", "down"):
        if name in arrays:
            weight = arrays[name].astype(np.float32)
            arrays[name] = dequantized(round_to_codes(weight, bits, group)).astype(np.float64)
    return Case(case.activation, arrays)


@st.composite
def cases(
    draw: st.DrawFn,
    tokens: st.SearchStrategy[int] = TOKENS,
    features: st.SearchStrategy[int] = FEATURES,
    hidden: st.SearchStrategy[int] = FEATURES,
) -> Case:
    experts = draw(st.integers(1, 6))
    return drawn(
        tokens=draw(tokens),
        experts=experts,
        chosen=draw(st.integers(1, experts)),
        features=draw(features),
        hidden=draw(hidden),
        activation=draw(st.sampled_from(NAMES)),
        gated=draw(st.booleans()),
        bias=draw(st.booleans()),
        spread=draw(st.sampled_from(["any", "distinct", "one"])),
        seed=draw(st.integers(0, 9999)),
    )
