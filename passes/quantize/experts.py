"""Rounds the weights of experts to codes of 8 or 4 bits; what multiplies them stays float32.

Approximate: runs when the user asks for it. The weights stay numbers until mixtures are packed,
which keeps what are products of codes and scales as such.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.formats.codes import EVEN, dequantized, round_to_codes
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Kind, Pass

GROUPS = {8: None, 4: 32}
"""Bits → inputs that share a scale; None for all of a row."""


class RoundExperts(Pass):
    """Every mixture of experts whose weights are constant gets the nearest codes.

    Args:
        bits: 8 or 4.
    """

    name: ClassVar[str] = "round-experts"
    kind: ClassVar[Kind] = "approximate"

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Round every mixture that the kernels take codes of; say why not others."""
        mixtures = [node for node in model.graph if ops.is_mixture(node)]
        refused = [(node, why) for node in mixtures if (why := self._round(node))]
        for node, why in refused:
            ctx.refuse(self.name, node, why)
        return len(refused) < len(mixtures)

    def _round(self, node: ir.Node) -> str:
        """Round a node, or say why not."""
        names = ops.input_names(node.op_type)
        at = [i for i, name in enumerate(names) if name in ("up", "gate", "down")]
        arrays = [edit.constant(node.inputs[i]) for i in at]
        if len(at) < 2 or any(array is None for array in arrays):
            return "the weights of its experts are not constant"
        weights = [array for array in arrays if array is not None]
        odd = next((size for array in weights for size in array.shape[1:] if size % EVEN), None)
        if odd is not None:
            return f"its experts have a side of {odd}, no multiple of {EVEN}"
        if not all(np.isfinite(array).all() for array in weights):
            return "a weight of its experts is not finite"
        for i, array in zip(at, weights, strict=True):
            rounded = dequantized(round_to_codes(array, self._bits, GROUPS[self._bits]))
            name = f"{node.name}.{names[i]}.int{self._bits}"
            node.replace_input_with(i, edit.new_initializer(node, name, rounded))
        return ""
