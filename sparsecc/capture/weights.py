"""Checks on the values of weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.errors import ModelError

_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)
# Readers for which infinity is a sensible constant: masks and clipping bounds. Everything else
# turns it into NaN or into an output that no longer depends on the input.
_INFINITY_IS_FINE = """
    Add Attention Clip Concat Equal Expand Gather Greater GreaterOrEqual Less LessOrEqual Max Min
    Mul Pad Reshape ScatterElements ScatterND Slice Sub Unsqueeze Where ConstantOfShape Identity
    Cast CastLike If Loop Scan
"""
_CHUNK = 1 << 20


def check_finite(model: ir.Model) -> None:
    """Check the float initializers of `model`, a chunk at a time.

    NaN is never accepted; infinity is in a constant which only masks or bounds.

    Raises:
        ModelError: Names the initializer, how many of its values are not finite, and a reader.
    """
    fine = _INFINITY_IS_FINE.split()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in _FLOATS:
                continue
            nans, infinities = _count(tensor.numpy())
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()
            readers = [node for node in value.consumers() if node.op_type not in fine]
            if nans or (infinities and readers):
                raise _not_finite(value, nans, infinities, readers or list(value.consumers()))


def _count(array: np.ndarray) -> tuple[int, int]:
    """Numbers of NaN and of infinite values; reads `array` in bounded memory."""
    flat = array.reshape(-1)
    nans = infinities = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if not np.isfinite(chunk).all():
            nans += int(np.isnan(chunk).sum())
            infinities += int(np.isinf(chunk).sum())
    return nans, infinities


def _not_finite(value: ir.Value, nans: int, infinities: int, readers: list[ir.Node]) -> ModelError:
    return ModelError(
        f"initializer {value.name!r} of shape {value.shape} holds {nans} NaN and {infinities} "
        "infinite values",
        node=readers[0].name if readers else None,
        fix="the training run diverged or the file is damaged: use another checkpoint",
    )
