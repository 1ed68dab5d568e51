"""Proofs that two values always have the same shape, dynamic dimensions included."""

from __future__ import annotations

import onnx_ir as ir


class Shapes:
    """Knows which values of one model provably have equal shapes."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def equal(self, a: ir.Value, b: ir.Value) -> bool:
        """Whether `a` and `b` have the same shape in every run."""
        if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
            return False
        return all(_known(x) and x == y for x, y in zip(a.shape, b.shape, strict=True))


def _known(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) or dim.value is not None
