"""What every op of the default domain does in torch: one table, in files by family."""

from sparsecc.torch.ops import (
    activations,
    attention,
    control,
    conv,
    create,
    elementwise,
    index,
    loss,
    matmul,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    regions,
    resize,
    sequence,
    shape,
    signal,
)
from sparsecc.torch.ops.table import Op

_FAMILIES = (
    activations,
    attention,
    control,
    conv,
    create,
    elementwise,
    index,
    loss,
    matmul,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    regions,
    resize,
    sequence,
    shape,
    signal,
)

OPS: dict[str, Op] = {name: op for family in _FAMILIES for name, op in family.OPS.items()}
"""Op type → how it is interpreted."""

__all__ = ["OPS", "Op"]
