"""What every op of the default domain does in torch: one table, in files by family."""

from sparsecc.torch.ops import (
    activations,
    conv,
    create,
    elementwise,
    index,
    matmul,
    norm,
    pool,
    reduce,
    resize,
    shape,
)
from sparsecc.torch.ops.table import Op

_FAMILIES = (
    activations,
    conv,
    create,
    elementwise,
    index,
    matmul,
    norm,
    pool,
    reduce,
    resize,
    shape,
)

OPS: dict[str, Op] = {name: op for family in _FAMILIES for name, op in family.OPS.items()}
"""Op type → how it is interpreted."""

__all__ = ["OPS", "Op"]
