"""MoE: every token through the few experts that were chosen for it, summed with their gates.

Choosing is not part of it. Softmax or sigmoid, TopK and what is done to the gates stay standard ops
in front, so that every kind of router leads to the same op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc.ops.activations import ACTIVATIONS, BY_NAME
from sparsecc.ops.attention_parts import dims_of
from sparsecc.ops.packed import constants
from sparsecc.ops.spec import Array, Dim, OpType

BASE = "MoE"
LEAST_OPSET = 13
ROUTED = ("X", "experts", "gates")
"""What changes from call to call: tokens ``[T, d]``, and per token k experts and their gates."""
KINDS = {"experts": "tensor(int64)"}
"""Types of inputs that are not float32."""
_AXES = {
    "X": "Td",
    "experts": "Tk",
    "gates": "Tk",
    "up": "Efd",
    "gate": "Efd",
    "down": "Edf",
    "up_bias": "Ef",
    "gate_bias": "Ef",
    "down_bias": "Ed",
}
"""Dimensions of each input by letter; a letter is one size wherever it stands."""


def moe_variant(activation: str = "none", *, gated: bool = False, bias: bool = False) -> str:
    """The op type for an activation (a name of ``ACTIVATIONS``), with or without gate and bias."""
    acts = "" if activation == "none" else f"_{activation}"
    return BASE + acts + "_gated" * gated + "_bias" * bias


def mixture(
    activation: str,
    x: Array,
    experts: NDArray[np.int64],
    gates: Array,
    weights: Mapping[str, Array],
) -> Array:
    """Numpy meaning of the op, in the dtype of its arguments.

    ``Y = Σ_slot gates · (down_e · (act(up_e x + up_bias_e) [· (gate_e x + gate_bias_e)]) +
    down_bias_e)``. An expert that stands twice in a row counts twice.

    Args:
        activation: A name of ``ACTIVATIONS``.
        x: ``[T, d]``.
        experts: ``[T, k]``.
        gates: ``[T, k]``.
        weights: ``up [E, f, d]``, ``down [E, d, f]``, and of ``gate [E, f, d]``, ``up_bias``,
            ``gate_bias`` and ``down_bias`` those that there are.

    Raises:
        ValueError: An expert does not exist, or a gate is not a number.
    """
    count = len(weights["up"])
    if experts.size and (experts.min() < 0 or experts.max() >= count):
        raise ValueError(f"an expert is outside of 0 … {count - 1}")
    if np.isnan(gates).any():
        raise ValueError("a gate is not a number")
    total = np.zeros_like(x)
    for e in np.unique(experts):
        part = {name: weight[e] for name, weight in weights.items()}
        tokens, slots = np.nonzero(experts == e)
        made = expert(activation, x[tokens], part)
        np.add.at(total, tokens, gates[tokens, slots, None] * made)
    return total


def expert(activation: str, x: Array, weights: Mapping[str, Array]) -> Array:
    """What one expert makes of tokens ``[T, d]``, in the dtype of its arguments.

    Args:
        activation: A name of ``ACTIVATIONS``.
        x: ``[T, d]``.
        weights: Of this expert, named as in :func:`mixture`.
    """
    made: Array = hidden(activation, x, weights) @ weights["down"].T + weights.get("down_bias", 0)
    return made


def hidden(activation: str, x: Array, weights: Mapping[str, Array]) -> Array:
    """Hidden features ``[T, f]`` of one expert, as :func:`expert` takes what they are of."""
    made = BY_NAME[activation].meaning(x @ weights["up"].T + weights.get("up_bias", 0))
    if "gate" in weights:
        made = made * (x @ weights["gate"].T + weights.get("gate_bias", 0))
    return made


def products_of(gated: bool) -> list[str]:
    """The weights of an expert, in the order of the inputs."""
    return ["up", *["gate"] * gated, "down"]


def _inputs(gated: bool, bias: bool) -> dict[str, str]:
    products = products_of(gated)
    names = [*ROUTED, *products, *(f"{name}_bias" for name in products if bias)]
    return {name: KINDS.get(name, "T") for name in names}


def _product(name: str, x: str, bias: str) -> list[onnx.NodeProto]:
    """One product of the expert ``e`` in the loop, as ``{name}_out``."""
    node = helper.make_node
    weights = [name, f"{name}{bias}"] if bias else [name]
    return [
        *(node("Gather", [weight, "e"], [f"{weight}_e"]) for weight in weights),
        node("Gemm", [x, *(f"{weight}_e" for weight in weights)], [f"{name}_out"], transB=1),
    ]


def rename(nodes: Sequence[onnx.NodeProto], prefix: str, *, kept: Sequence[str] = ()) -> None:
    """Give values names that no others have: those in a loop may not be those around it."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else prefix + name for name in names]


def _expert(activation: str, gated: bool, bias: str) -> onnx.GraphProto:
    """Body of the loop: one expert on its tokens, added to what the others made."""
    node = helper.make_node
    acts, hidden = BY_NAME[activation].body("up_out", "active"), "active"
    rename(acts, "act_", kept=["up_out", "active"])
    nodes = [
        node("Identity", ["going"], ["goes_on"]),
        node("Gather", ["touched", "i"], ["e"]),
        node("Equal", ["routed", "e"], ["chosen"]),
        node("Where", ["chosen", "gates", "nothing"], ["shares"]),
        node("ReduceSum", ["shares", "slots"], ["share"], keepdims=1),
        node("Cast", ["chosen"], ["hits"], to=TensorProto.INT64),
        node("ReduceSum", ["hits", "slots"], ["times"], keepdims=0),
        node("NonZero", ["times"], ["tokens_across"]),
        node("Reshape", ["tokens_across", "all"], ["tokens"]),
        node("Gather", ["X", "tokens"], ["own"]),
        *_product("up", "own", bias),
        *acts,
    ]
    if gated:
        nodes += [*_product("gate", "own", bias), node("Mul", [hidden, "gate_out"], ["gated"])]
        hidden = "gated"
    nodes += [
        *_product("down", hidden, bias),
        node("Gather", ["share", "tokens"], ["own_share"]),
        node("Mul", ["down_out", "own_share"], ["weighed"]),
        node("Gather", ["sum", "tokens"], ["before"]),
        node("Add", ["before", "weighed"], ["after"]),
        node("Reshape", ["tokens", "column"], ["tokens_down"]),
        node("ScatterND", ["sum", "tokens_down", "after"], ["next"]),
    ]
    info = helper.make_tensor_value_info
    given = [info("i", TensorProto.INT64, []), info("going", TensorProto.BOOL, [])]
    return helper.make_graph(
        nodes,
        "expert",
        [*given, info("sum", TensorProto.FLOAT, None)],
        [info("goes_on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )


def body(activation: str, gated: bool, bias: str) -> list[onnx.NodeProto]:
    """A loop over the experts that some token chose, each on its own tokens alone.

    Args:
        activation: A name of ``ACTIVATIONS``.
        gated: Whether there is a gate.
        bias: What ends the names of biases; empty where there are none.
    """
    node = helper.make_node
    zero = numpy_helper.from_array(np.zeros((), np.float32))
    return [
        *constants(at0=[0], at1=[1], slots=[1], all=[-1], column=[-1, 1], below=[0]),
        node("Constant", [], ["nothing"], value=zero),
        # Gather would count a negative expert from the end.
        node("Shape", ["up"], ["up_sizes"]),
        node("Slice", ["up_sizes", "at0", "at1"], ["count"]),
        node("Less", ["experts", "below"], ["is_below"]),
        node("Where", ["is_below", "count", "experts"], ["routed"]),
        node("Unique", ["routed"], ["touched"]),
        node("Size", ["touched"], ["turns"]),
        node("Shape", ["X"], ["X_shape"]),
        node("ConstantOfShape", ["X_shape"], ["zeros"]),
        node("Loop", ["turns", "", "zeros"], ["Y"], body=_expert(activation, gated, bias)),
    ]


def _check(node: ir.Node, inputs: Mapping[str, str]) -> None:
    named = dict(zip(inputs, node.inputs, strict=True))
    check_routed({name: dims_of(value) for name, value in named.items()}, named)


def check_routed(
    shapes: Mapping[str, list[Dim] | None], values: Mapping[str, ir.Value | None]
) -> None:
    """Check that shapes of inputs agree, and types and constant experts of those that are given.

    Args:
        shapes: Name of an input of ``MoE`` → its shape, as far as it is known.
        values: Name → the input itself, the chosen experts among them.

    Raises:
        ValueError: What disagrees.
    """
    for name, value in values.items():
        wanted = ir.DataType.INT64 if name == "experts" else ir.DataType.FLOAT
        if value is not None and value.dtype not in (None, wanted):
            raise ValueError(f"{name} is {value.dtype}, expected {wanted}")
    sizes, experts = _sizes(shapes), values["experts"]
    if experts is not None and experts.const_value is not None and "E" in sizes:
        chosen = experts.const_value.numpy()
        if chosen.size and (chosen.min() < 0 or chosen.max() >= sizes["E"]):
            raise ValueError(f"the chosen experts are outside of 0 … {sizes['E'] - 1}")


def _sizes(shapes: Mapping[str, list[Dim] | None]) -> dict[str, int]:
    """The sizes that are known, by letter; ValueError where inputs disagree."""
    found: dict[str, tuple[str, int]] = {}
    for name, dims in shapes.items():
        if dims is None:
            continue
        axes = _AXES[name]
        if len(dims) != len(axes):
            raise ValueError(f"{name} has the shape {dims}, expected [{', '.join(axes)}]")
        for letter, dim in zip(axes, dims, strict=True):
            if not isinstance(dim, int):
                continue
            if dim < (letter != "T"):
                raise ValueError(f"{name} has the shape {dims}: {letter} is empty")
            first, size = found.setdefault(letter, (name, dim))
            if size != dim:
                raise ValueError(
                    f"{name} has the shape {dims}: {letter} is {dim}, and {size} in {first}"
                )
    return {letter: size for letter, (_, size) in found.items()}


def _infer(node: ir.Node, x: Sequence[Dim], inputs: Mapping[str, str]) -> list[Dim]:
    others = {name: dims_of(value) for name, value in zip(inputs, node.inputs, strict=True)}
    _sizes(others | {"X": list(x)})
    return list(x)


def _op_type(activation: str, gated: bool, bias: bool) -> OpType:
    inputs = _inputs(gated, bias)
    return OpType(
        doc="Y = Σ over the chosen experts of gate · down_e · act(up_e x) [· gate_e x].",
        inputs=inputs,
        attributes={},
        body=partial(body, activation, gated, "_bias" * bias),
        check=partial(_check, inputs=inputs),
        infer=partial(_infer, inputs=inputs),
        least_opset=LEAST_OPSET,
    )


MIXTURES: dict[str, OpType] = {
    moe_variant(activation.name, gated=gated, bias=bias): _op_type(activation.name, gated, bias)
    for activation in ACTIVATIONS
    for gated in (False, True)
    for bias in (False, True)
}
"""Every mixture of experts of the domain."""
