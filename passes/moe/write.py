"""The op of a mixture of experts, put where one was found."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes.tape import Tape

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Experts:
    """What experts of one shape compute: ``down · act(up x) [· gate x]``, each with its bias.

    Attributes:
        activation: A name of ``ACTIVATIONS``.
        weights: ``up [E, f, d]``, ``down [E, d, f]`` and, as far as there are any, ``gate``,
            ``up_bias``, ``gate_bias`` and ``down_bias``.
    """

    activation: str
    weights: dict[str, Array] = field(repr=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.weights["up"])

    @property
    def features(self) -> int:
        """Of a token."""
        return int(self.weights["up"].shape[2])


def mixture(
    tape: Tape, x: ir.Value, chosen: ir.Value, gates: ir.Value, experts: Experts
) -> ir.Value:
    """The op on tokens ``[T, d]``, with experts and gates ``[T, k]``."""
    weights = dict(experts.weights)
    names = ["up", *["gate"] * ("gate" in weights), "down"]
    biased = any(f"{name}_bias" in weights for name in names)
    if biased:
        for name in names:
            weights.setdefault(f"{name}_bias", np.zeros(weights[name].shape[:2], np.float32))
    op_type = ops.moe_variant(experts.activation, gated="gate" in weights, bias=biased)
    held = [
        tape.weight(name, np.ascontiguousarray(weights[name], np.float32))
        for name in ops.input_names(op_type)[len(ops.ROUTED) :]
    ]
    return tape.op(op_type, x, chosen, gates, *held)


def rows(tape: Tape, value: ir.Value, width: int) -> ir.Value:
    """A value as ``[-1, width]``."""
    if value.shape is not None and len(value.shape) == 2 and value.shape[1] == width:
        return value
    made = tape.op("Reshape", value, tape.ints(-1, width))
    made.type, made.shape = value.type, ir.Shape([None, width])
    return made


@dataclass(frozen=True)
class Found:
    """A mixture of experts as it stands in a model.

    Attributes:
        result: What it gives, of any rank.
        x: Tokens, of any rank.
        chosen: Experts, ``k`` for each token.
        gates: A number for each of these or, `by_expert`, for every expert, then zero for others.
        experts: What they compute.
        k: How many a token has.
        place: What gates multiply, ``tokens`` or the ``result`` of an expert.
        shape: What has the dimensions of the result, all but the last, or these as numbers.
    """

    result: ir.Value
    x: ir.Value
    chosen: ir.Value
    gates: ir.Value
    by_expert: bool
    experts: Experts
    k: int
    place: str
    shape: ir.Value | list[int]


def rewrite(found: Found) -> None:
    """Put the op in the place of a mixture; what it was made of is dead code then."""
    node = found.result.producer()
    assert node is not None
    tape, experts, k = Tape(node), found.experts, found.k
    x, chosen = rows(tape, found.x, experts.features), rows(tape, found.chosen, k)
    gates = _gates(tape, found, chosen)
    if found.place == "tokens":
        made = _on_tokens(tape, x, chosen, gates, found)
    else:
        made = mixture(tape, x, chosen, gates, experts)
    if isinstance(found.shape, ir.Value):
        sizes = tape.op("Shape", found.shape)
        if found.shape is found.chosen:
            lead = tape.op("Slice", sizes, tape.ints(0), tape.ints(-1))
            sizes = tape.op("Concat", lead, tape.ints(experts.features), axis=0)
        tape.op("Reshape", made, sizes)
    elif len(found.shape) != 2:
        tape.op("Reshape", made, tape.ints(*found.shape))
    tape.finish()


def _gates(tape: Tape, found: Found, chosen: ir.Value) -> ir.Value:
    """Gates ``[T, k]``."""
    if not found.by_expert:
        return rows(tape, found.gates, found.k)
    return tape.op("GatherElements", rows(tape, found.gates, found.experts.count), chosen, axis=1)


def _on_tokens(
    tape: Tape, x: ir.Value, chosen: ir.Value, gates: ir.Value, found: Found
) -> ir.Value:
    """The sum of experts that each get a token times its gate: a mixture with one choice a row."""
    width = found.experts.features
    scaled = tape.op(
        "Mul", tape.op("Unsqueeze", x, tape.ints(1)), tape.op("Unsqueeze", gates, tape.ints(2))
    )
    single = tape.op("Reshape", chosen, tape.ints(-1, 1))
    one = tape.op("Expand", tape.constant(np.array(1, np.float32)), tape.op("Shape", single))
    made = mixture(tape, rows(tape, scaled, width), single, one, found.experts)
    parted = tape.op("Reshape", made, tape.ints(-1, found.k, width))
    return tape.op("ReduceSum", parted, tape.ints(1), keepdims=0)
