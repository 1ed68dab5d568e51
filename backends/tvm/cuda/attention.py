"""Block-sparse attention of a model as a launch of its kernel, with the tiles inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.recipe import Recipe, Step
from sparsecc.backends.cuda.tiles import Rule, Tiles
from sparsecc.backends.tvm.cuda.regions import DTYPE, Region, fixed_sizes
from sparsecc.errors import BackendError
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes

_NAMES = {"Rows": "starts", "Full": "full", "Columns": "at", "Bits": "bits"}
"""Tensors of tiles by their names in the kernel, and in :class:`Tiles`."""


@dataclass(frozen=True)
class _Laid:
    """A tensor that lies row by row from an address that TVM aligns, as far as launches ask."""

    name: str
    shape: tuple[int, ...]

    def stride(self, axis: int | None = None) -> tuple[int, ...] | int:
        """In elements."""
        strides = tuple(int(np.prod(self.shape[at + 1 :])) for at in range(len(self.shape)))
        return strides if axis is None else strides[axis]

    def data_ptr(self) -> int:
        """Aligned as every allocation is."""
        return 0


def attention_region(node: ir.Node, shapes: Shapes, name: str, arch: Arch) -> Region:
    """The region of a ``BlockSparseAttention``.

    Args:
        node: The node.
        shapes: Of its model.
        name: Of the function.
        arch: What it is for.

    Raises:
        BackendError, PlanError: No kernel computes it; says why.
    """
    if "mask" in ops.input_names(node.op_type):
        raise BackendError("a mask is added to its scores", fix="give a rule or blocks instead")
    q, k = (fixed_sizes(value, shapes) for value in node.inputs[:2])
    scale = node.attributes["scale"].as_float()
    if scale < 0:
        raise BackendError(f"its scale is {scale:g}", fix="scale by a positive number")
    tiles = _tiles(node, q, k, arch)
    order = tiles.order(q[1])
    arrays = {"Order": order} | {own: getattr(tiles, held) for own, held in _NAMES.items()}
    tensors = {name: _Laid(name, k if name in "KV" else q) for name in ("Q", "K", "V", "Out")}
    numbers = kernels.arguments(
        tensors,
        {"Lse": "Lse"},
        indices=dict(zip(arrays, arrays, strict=True)),
        sizes=kernels.sizes_of(tiles),
        scale=scale,
    )
    given = {key: each.name if isinstance(each, _Laid) else each for key, each in numbers.items()}
    kernel = kernels.kernel_of(DTYPE, q[3], tiles.rows, ordered=False)
    step = Step(kernel, (len(order), q[0]), given)
    return Region(
        name,
        kernel.name,
        Recipe((step,), {"Lse": ("float32", q[:3])}),
        inputs={"Q": (DTYPE, q), "K": (DTYPE, k), "V": (DTYPE, k)},
        outputs={"Out": (DTYPE, q)},
        arrays=arrays,
    )


def _tiles(node: ir.Node, q: Sequence[int], k: Sequence[int], arch: Arch) -> Tiles:
    kept, block = _blocks(node)
    rule = Rule(*ops.rule_of(node))
    return kernels.tiles_of(DTYPE, q[3], (q[2], k[2]), arch, kept=kept, block=block, rule=rule)


def _blocks(node: ir.Node) -> tuple[NDArray[np.bool_] | None, tuple[int, int]]:
    """The blocks that are kept, and their size."""
    named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
    if "index" not in named:
        return None, (64, 64)
    index, grid = constant(named["index"]), constant(named["grid"])
    if index is None or grid is None:
        raise BackendError(
            "its blocks are found while the model runs", fix="leave out online for a GPU"
        )
    heads, down, across, rows, columns = (int(each) for each in grid)
    kept = np.zeros(heads * down * across, bool)
    kept[index[index >= 0]] = True
    return kept.reshape(heads, down, across), (rows, columns)
