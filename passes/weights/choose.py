"""Which kernel runs a layer: the cheapest by the cost model, the dense one included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.cost import roofline
from sparsecc.cost.model import CostModel, Estimate, cost_model
from sparsecc.cost.rates import NOTHING, Sums
from sparsecc.cost.roofline import UNKNOWN_BATCH, UNKNOWN_SIDE, UNKNOWN_TOKENS, WORTHWHILE
from sparsecc.formats.blocks import Block, count_blocks
from sparsecc.formats.patterns import HALVES, detect, keeps_within
from sparsecc.passes import edit
from sparsecc.passes.weights.layers import Layer, matrix
from sparsecc.report.rows import DENSE_KERNEL, LayerRow
from sparsecc.targets import Target

BLOCKS: tuple[Block, ...] = ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (1, 4), (1, 8), (1, 16))
"""Packed formats that have kernels."""
TIE = 1.1
"""Times are taken for the same up to this ratio: about the error of a prediction."""
LEAST_SKIPPED = 0.1
"""Share of its blocks that a format skips at least: below, it is a dense kernel by another name."""


@dataclass(frozen=True)
class Choice:
    """What runs a layer.

    Attributes:
        layer: The layer.
        block: Block of the packed format, or None when the layer stays dense.
        row: The same for the report.
    """

    layer: Layer
    block: Block | None
    row: LayerRow


def choose(layer: Layer, target: Target, *, beside: bool = False) -> Choice:
    """Choose the kernel of one layer from the zeros its weight has.

    Exact: only zeros that are there are used.

    Args:
        layer: The layer.
        target: Where it runs.
        beside: Whether layers beside it are in the library too (``CostModel.sparse``): an image
            changes its layout around a layer that is not. All are where no ONNX Runtime is.
    """
    weight = matrix(layer)
    work = work_of(layer)
    costs = cost_model(target)
    beside = beside or target.stands_alone
    by_runtime = costs.dense(work)
    dense = by_runtime.ms
    refusal = _ineligible(layer, weight) or costs.why_not(work)
    times = {} if refusal else _sparse_times(layer, weight, work, costs, beside)
    moved = beside and work.is_conv and not target.stands_alone
    around = roofline.layout_ms(work) if moved else 0.0
    limit = WORTHWHILE * (dense + around)
    block = _best(weight, times, limit)
    sparse = times[block].ms if block else math.inf
    pays = sparse <= limit
    found = detect(weight)
    why = refusal or _reason(sparse, dense + around, found.density, costs.blocks)
    chosen = times[block] if pays and block else by_runtime
    flops, moved_bytes = _demand(weight, work, block if pays else None)
    if costs.is_gpu:
        moved_bytes //= 2  # numbers of 16 bits
    row = LayerRow(
        name=layer.name,
        op=layer.op,
        shape=(layer.rows, layer.cols),
        macs=layer.macs if layer.macs is not None else layer.rows * layer.cols,
        density=round(found.density, 6),
        pattern=str(found.pattern),
        eligible=not refusal,
        why=why,
        kernel=kernel_name(layer, block, target) if pays and block else DENSE_KERNEL,
        est_ms=round(chosen.ms, 6),
        spread=round(chosen.spread, 4),
        dense_ms=round(dense, 6),
        flops=flops,
        moved_bytes=moved_bytes,
    )
    return Choice(layer, block if pays else None, row)


def _best(
    weight: NDArray[np.floating], times: Mapping[Block, Estimate], limit: float
) -> Block | None:
    """The quickest format; of those in a tie that keep to the limit, the one of the fewest bytes.

    What is stored beyond need comes from further away in a model that holds it all.
    """
    quickest = min((time.ms for time in times.values()), default=0.0)
    most = max(quickest, min(TIE * quickest, limit))
    tied = [block for block, time in times.items() if time.ms <= most]

    def stored(block: Block) -> int:
        words = roofline.BYTES_PER_WEIGHT * math.prod(block) + roofline.BYTES_PER_INDEX
        return count_blocks(weight != 0, block) * words

    return min(tied, key=stored, default=None)


def kernel_name(layer: Layer, block: Block, target: Target) -> str:
    """Name of a sparse kernel, such as ``conv-4x1``; ``conv-1x1-code`` is generated.

    On a GPU that of the form of the weight.
    """
    work = work_of(layer)
    if target.family == "cuda":
        nonzero = matrix(layer) != 0
        halved = keeps_within(nonzero, *HALVES)
        return cost_model(target).form(work, block, count_blocks(nonzero, block), halved=halved)
    kind, points = ("conv", None) if layer.op == "Conv" else ("matmul", work.points)
    code = "-code" if roofline.generates(block, layer.groups, points, target) else ""
    return f"{kind}-{block[0]}x{block[1]}{code}"


def work_of(layer: Layer) -> roofline.Work:
    """The layer's work, unknown dimensions replaced by typical ones."""
    return node_work(layer.node, layer.rows, layer.cols, layer.groups)


def node_work(node: ir.Node, rows: int, cols: int, groups: int) -> roofline.Work:
    """The work of a layer's node, sparse or not, with R outputs of K inputs each."""
    of_images = node.op_type == "Conv" or node.op_type.startswith("SparseConv")
    is_conv = of_images and not edit.is_of_pixels(node)
    fallback = UNKNOWN_SIDE if of_images else UNKNOWN_TOKENS
    out, into = _dims(node.outputs[0], fallback), _dims(node.inputs[0], fallback)
    points = math.prod(out) // rows if out else fallback
    return roofline.Work(
        rows=rows,
        cols=cols,
        points=max(1, points),
        groups=groups,
        input_elements=math.prod(into) if into else cols * fallback,
        is_conv=is_conv,
    )


def whole_kernel(node: ir.Node) -> str:
    """Name of the kernel of a layer of the library that multiplies by its whole weight."""
    if ops.parse(node.op_type).base == "SparseMatMul":
        return "matmul-dense"
    group = node.attributes.get_int("group", 1)
    return "conv-depthwise" if group == ops.read_packed(node).shape[0] > 1 else "conv-dense"


def packed_work(node: ir.Node) -> roofline.Work:
    """The work of a layer of the library."""
    weight, group = ops.read_packed(node), node.attributes.get_int("group", 1)
    return node_work(node, weight.shape[0], math.prod(weight.shape[1:]), group)


def packed_estimate(node: ir.Node, target: Target) -> Estimate:
    """Time of a layer of the library, in a region."""
    weight = ops.read_packed(node)
    return cost_model(target).sparse(
        packed_work(node), weight.block, len(weight.index), beside=True
    )


def why_not_in_library(
    work: roofline.Work, block: Block, target: Target, edges: float, streamed: Sums = NOTHING
) -> str:
    """Why a layer without zeros is better left to ONNX Runtime than put into a region, or "".

    Args:
        work: The layer, without groups.
        block: What its weight would be packed in.
        target: Where it runs.
        edges: Bytes of activations that would change their layout around ONNX Runtime's layer.
        streamed: Of its output, where a chain would stream it (``cost.chains``).
    """
    blocks = math.ceil(work.rows / block[0]) * work.cols
    costs = cost_model(target)
    ours = costs.sparse(work, block, blocks, beside=True).ms - costs.streamed_ms(streamed)
    theirs = costs.dense(work).ms + edges / roofline.LAYOUT_GBS * 1e-6
    return "" if ours <= theirs else f"dense in the library: {theirs / ours:.2f}x as fast"


def has_few_rows(x: ir.Value | None) -> bool:
    """Whether a product of `x` is bound by reading its weight, whoever computes it.

    As many tokens as the model does not say are taken for many, but for rows of a batch.
    """
    dims = list(x.shape or ())[:-1] if x is not None else []
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return len(dims) < 2 if len(sizes) < len(dims) else math.prod(sizes) <= roofline.FEW_POINTS


def _dims(value: ir.Value | None, fallback: int) -> list[int]:
    if value is None or value.shape is None:
        return []
    dims = [dim if isinstance(dim, int) else fallback for dim in value.shape]
    if dims and not isinstance(value.shape[0], int):
        dims[0] = UNKNOWN_BATCH
    return dims


def _ineligible(layer: Layer, weight: NDArray[np.floating]) -> str:
    """Why a layer cannot run sparse at all, or ""."""
    value = layer.node.inputs[1]
    if value is not None and value.dtype not in (None, ir.DataType.FLOAT):
        return f"weights are {str(value.dtype).lower()}: kernels are float32"
    if layer.op == "Gemm" and _scaled(layer.node):
        return "Gemm with alpha or beta other than 1"
    if node_bias(layer.node, layer.rows) is None:
        return "bias is not one constant per output"
    if np.count_nonzero(weight) == weight.size:
        return "no zeros"
    return ""


def node_bias(node: ir.Node, rows: int) -> NDArray[np.float32] | None:
    """The bias as float32 ``[R]``, zeros when there is none; None when it is of another form."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(rows, np.float32)
    array = edit.constant(value)
    if array is None or not _one_per_output(array.shape, rows):
        return None
    return np.broadcast_to(array.astype(np.float32).reshape(-1), (rows,)).copy()


def _one_per_output(shape: tuple[int, ...], rows: int) -> bool:
    return math.prod(shape) == 1 or (math.prod(shape) == rows and shape[-1] == rows)


def _scaled(node: ir.Node) -> bool:
    return any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))


def _sparse_times(
    layer: Layer,
    weight: NDArray[np.floating],
    work: roofline.Work,
    costs: CostModel,
    beside: bool,
) -> dict[Block, Estimate]:
    """Times of every format whose blocks stay inside one group, and that skips any."""
    rows_per_group = layer.rows // layer.groups
    served = costs.blocks or BLOCKS
    fitting = [block for block in served if layer.groups == 1 or rows_per_group % block[0] == 0]
    nonzero = weight != 0
    halved = costs.is_gpu and keeps_within(nonzero, *HALVES)
    stored = {block: count_blocks(nonzero, block) for block in fitting}
    return {
        block: costs.sparse(work, block, count, beside=beside, halved=halved)
        for block, count in stored.items()
        if count <= (1 - LEAST_SKIPPED) * _cells(weight.shape, block)
    }


def _cells(shape: tuple[int, ...], block: Block) -> int:
    """Blocks of a matrix, stored or not."""
    return math.ceil(shape[0] / block[0]) * math.ceil(shape[1] / block[1])


def _demand(
    weight: NDArray[np.floating], work: roofline.Work, block: Block | None
) -> tuple[float, int]:
    """Operations and bytes of one run in a packed format, or dense."""
    if block is None:
        return roofline.demand(work, weight.size)
    blocks = count_blocks(weight != 0, block)
    return roofline.demand(work, blocks * math.prod(block), blocks)


def _reason(sparse: float, dense: float, density: float, only: Sequence[Block] = ()) -> str:
    """Why a layer is sparse or is not; `only` such blocks have kernels, where it matters."""
    if math.isinf(sparse):
        blocks = " or ".join(f"{r}x{c}" for r, c in only)
        what = f" in blocks of {blocks}, which have kernels," * bool(only)
        return f"would not pay: next to nothing to skip{what} at density {density:.2f}"
    ratio = dense / sparse if sparse else math.inf
    if sparse <= WORTHWHILE * dense:
        return f"estimated {ratio:.1f}x faster at density {density:.2f}"
    return f"would not pay: estimated {ratio:.2f}x of dense at density {density:.2f}"
