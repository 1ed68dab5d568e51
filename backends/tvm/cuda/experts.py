"""A mixture of experts as the launches of its kernels, every expert whole."""

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
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes

_NAMES = {"up": "Up", "gate": "Gate", "down": "Down"}
"""Weights by their names in the op, and in the kernels."""


def mixture_region(node: ir.Node, shapes: Shapes, name: str, arch: Arch) -> Region:
    """The region of a mixture of experts with packed weights.

    Args:
        node: The node.
        shapes: Of its model.
        name: Of the function.
        arch: What it is for.

    Raises:
        BackendError: No kernel computes it; says why.
    """
    if not ops.is_packed_mixture(node):
        raise BackendError("the weights of its experts are no constants", fix="export them as such")
    if ops.bits_of(node.op_type) is not None:
        raise BackendError(
            "the weights of its experts are codes, and kernels for GPUs take float16",
            fix="compile the model with its weights as numbers",
        )
    (tokens, features), (_, slots) = (fixed_sizes(each, shapes) for each in node.inputs[:2])
    arrays, biases = _weights(node)
    biased = any(np.any(bias) for bias in biases.values())
    activation, gated = ops.parse_mixture(node.op_type)
    experts, inner, _ = arrays["Up"].shape
    mixture = Mixture(
        *(tokens, slots, experts, features, inner),
        activation=activation,
        gated=gated,
        biased=biased,
        dtype=DTYPE,
        arch=arch,
    )
    return Region(
        name,
        f"experts-{DTYPE}",
        recipe(mixture),
        inputs={
            "X": (DTYPE, (tokens, features)),
            "Experts": ("int64", (tokens, slots)),
            "Gates": ("float32", (tokens, slots)),
        },
        outputs={"Out": (DTYPE, (tokens, features))},
        arrays={**arrays, **biases} if biased else arrays,
    )


def _weights(node: ir.Node) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Weights ``[experts, rows, columns]`` and biases ``[experts, rows]`` of the kernels."""
    count = node.attributes["experts_count"].as_int()
    parts = ops.parts_of(None)
    arrays: dict[str, NDArray[Any]] = {}
    biases: dict[str, NDArray[Any]] = {}
    for at, (name, packed) in enumerate(ops.packed_mixture(node).items()):
        dense = unpack_blocks(packed)
        arrays[_NAMES[name]] = rounded(dense.reshape(count, -1, dense.shape[-1]), DTYPE)
        bias = constant(node.inputs[len(ops.ROUTED) + len(parts) * at + parts.index("bias")])
        assert bias is not None, f"{node.name} has a bias that is no constant"
        biases[f"{_NAMES[name]}Bias"] = rounded(bias.reshape(count, -1), DTYPE)
    return arrays, biases
