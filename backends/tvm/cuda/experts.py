"""A mixture of experts as launches of its kernels, with the weights inside; or all its experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.cuda.experts import Mixture, recipe
from sparsecc.backends.cuda.forms.base import rounded
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.tvm.cuda.regions import DTYPE, Region, fixed_sizes
from sparsecc.errors import BackendError
from sparsecc.formats.blocks import unpack_blocks
from sparsecc.formats.codes import unpack_codes
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.tape import Tape
from sparsecc.passes.weights.to_dense import activation_nodes

_NAMES = {"up": "Up", "gate": "Gate", "down": "Down"}
"""Weights by their names in the op, and in the recipe."""


def mixture_region(node: ir.Node, shapes: Shapes, name: str, arch: Arch) -> Region:
    """The region of a ``MoE`` or ``SparseMoE``; zeros and codes of weights become float16.

    Args:
        node: The node.
        shapes: Of its model.
        name: Of the function.
        arch: What it is for.

    Raises:
        BackendError: No kernel computes it; says why.
    """
    activation, gated = ops.parse_mixture(node.op_type)
    (tokens, features), (_, slots) = (fixed_sizes(each, shapes) for each in node.inputs[:2])
    weights = _weights(node)
    if not any(weights[each].any() for each in weights if each.endswith("Bias")):
        weights = {each: held for each, held in weights.items() if not each.endswith("Bias")}
    count, inner, _ = weights["Up"].shape
    biased, sizes = "UpBias" in weights, (tokens, slots, count, features, inner)
    made = recipe(Mixture(*sizes, activation, gated, biased, DTYPE, arch))
    if not made.steps:
        raise BackendError("it has no tokens", fix="leave it out")
    return Region(
        name,
        f"experts-{DTYPE}",
        made,
        inputs={
            "X": (DTYPE, (tokens, features)),
            "Experts": ("int64", (tokens, slots)),
            "Gates": ("float32", (tokens, slots)),
        },
        outputs={"Out": (DTYPE, (tokens, features))},
        arrays={each: rounded(held, DTYPE) for each, held in weights.items()},
    )


def write_every_expert(node: ir.Node) -> None:
    """Put standard ops in the place of a mixture: every expert on every token, times gates.

    Raises:
        BackendError: Its weights are not constant.
    """
    activation, gated = ops.parse_mixture(node.op_type)
    (x, chosen, gates), weights, tape = node.inputs[:3], _weights(node), Tape(node)

    def product(of: ir.Value | None, name: str) -> ir.Value:
        turned = tape.weight(name, np.ascontiguousarray(weights[name].swapaxes(1, 2)))
        made = tape.op("MatMul", of, turned)  # [E, T, R]
        if f"{name}Bias" not in weights:
            return made
        return tape.op("Add", made, tape.weight(f"{name}Bias", weights[f"{name}Bias"][:, None]))

    hidden = tape.take(activation_nodes(activation, product(x, "Up")))
    if gated:
        hidden = tape.op("Mul", hidden, product(x, "Gate"))
    every = tape.constant(np.arange(len(weights["Up"]))[:, None, None])
    hits = tape.op("Cast", tape.op("Equal", chosen, every), to=ir.DataType.FLOAT.value)
    slots = tape.op("Mul", hits, gates)  # [E, T, k]
    share = tape.op("ReduceSum", slots, tape.ints(2), keepdims=1)
    made = tape.op("Mul", product(hidden, "Down"), share)
    old, new = node.outputs[0], tape.op("ReduceSum", made, tape.ints(0), keepdims=0)
    new.type, new.shape = old.type, old.shape
    tape.finish()


def _weights(node: ir.Node) -> dict[str, NDArray[Any]]:
    """Weights ``[E, R, K]`` and biases ``[E, R]`` by their names in the recipe."""
    named = {
        name: constant(value)
        for name, value in zip(ops.input_names(node.op_type), node.inputs, strict=True)
        if name not in ops.ROUTED
    }
    if any(each is None for each in named.values()):
        raise BackendError(
            f"the mixture of experts {node.name} has weights that are computed while it runs",
            node=node.name,
            fix="export the model with constant weights",
        )
    arrays = {name: each for name, each in named.items() if each is not None}
    if ops.is_packed_mixture(node):
        arrays = _unpacked(node, arrays)
    return {
        _NAMES[part] + end.capitalize(): arrays[name]
        for name in arrays
        for part, _, end in [name.partition("_")]
    }


def _unpacked(node: ir.Node, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Of a packed mixture: weights and biases, the experts no longer below one another."""
    count, bits = node.attributes["experts_count"].as_int(), ops.bits_of(node.op_type)
    made: dict[str, NDArray[Any]] = {}
    for name, packed in ops.packed_mixture(node).items():
        if bits is None:
            whole: NDArray[Any] = unpack_blocks(packed)
        else:
            group = node.attributes["inputs_per_scale"].as_int()
            whole = unpack_codes(packed, arrays[f"{name}_scales"], bits=bits, group=group)
        made[name] = whole.reshape(count, -1, whole.shape[1])
        made[f"{name}_bias"] = np.asarray(arrays[f"{name}_bias"]).reshape(count, -1)
    return made
