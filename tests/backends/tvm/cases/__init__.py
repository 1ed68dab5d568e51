"""Small graphs of one op each, or a few, with what ONNX Runtime is asked beside; by family."""

from __future__ import annotations

from tests.backends.tvm.cases.case import Case, model_of
from tests.backends.tvm.cases.elementwise import binary, casts, unary
from tests.backends.tvm.cases.layers import norms, products
from tests.backends.tvm.cases.moves import moves
from tests.backends.tvm.cases.reductions import reductions
from tests.backends.tvm.cases.several import several
from tests.backends.tvm.cases.windows import windows

FAMILIES = (unary, binary, casts, reductions, moves, windows, norms, products, several)
CASES: tuple[Case, ...] = tuple(case for family in FAMILIES for case in family())

__all__ = ["CASES", "Case", "model_of"]
