"""Merge the addition of one constant per channel into the convolution before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, new_initializer, nodes_of, replace, sole_consumer, is_op


class ConvBias(Pass):
    """Conv + Add(constant per channel) becomes Conv with a bias."""

    name = "conv-bias"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Merge wherever the convolution has no other reader."""
        modified = False
        for conv in nodes_of(model, "Conv"):
            addition = sole_consumer(conv.outputs[0])
            if addition is None or not is_op(addition, "Add"):
                continue
            bias = merged_bias(conv, addition, axis=1)
            if bias is None:
                continue
            value = new_initializer(conv, f"{conv.name}.bias_merged", bias)
            inputs = [conv.inputs[0], conv.inputs[1], value]
            merged = ir.Node("", "Conv", inputs, conv.attributes.values(), name=conv.name)
            replace([conv, addition], [merged], at=addition)
            modified = True
        return modified


def merged_bias(
    layer: ir.Node, addition: ir.Node, axis: int, position: int = 2
) -> NDArray[np.generic] | None:
    """Bias [R] of `layer` plus the constant that `addition` adds to its output.

    Args:
        layer: A node whose output has R channels; it may have a bias at input `position`.
        addition: An Add that reads the output of `layer`.
        axis: Where the channels are in the output; negative counts from the end.
        position: Where `layer` takes its bias.

    Returns:
        The sum, or None if the addend is not one constant per channel.
    """
    output = layer.outputs[0]
    addend = next((constant(v) for v in addition.inputs if v is not output), None)
    shape = output.shape
    if addend is None or shape is None or not isinstance(shape[axis], int):
        return None
    channels, rank = int(shape[axis]), len(shape)
    # Aligned to the right, as ONNX broadcasts; a constant of higher rank would change the shape.
    aligned = (1,) * (rank - addend.ndim) + addend.shape
    wanted = [1] * rank
    wanted[axis] = channels
    if len(aligned) != rank or any(a not in (1, w) for a, w in zip(aligned, wanted, strict=True)):
        return None
    own = constant(layer.inputs[position]) if len(layer.inputs) > position else None
    if own is None and len(layer.inputs) > position and layer.inputs[position] is not None:
        return None
    row = np.broadcast_to(addend.reshape(-1), (channels,)).astype(np.float64)
    return (row + (0.0 if own is None else own)).astype(addend.dtype)
