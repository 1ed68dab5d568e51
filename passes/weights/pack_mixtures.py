"""Packs the weights of experts: those of all experts, below one another, as one weight. Exact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.kernels.table import EXPERT_ROWS
from sparsecc.cost.model import HEIGHTS, Estimate, cost_model, total
from sparsecc.cost.moe import Packing, Routing, bytes_per_weight, every_expert, mixture_ms
from sparsecc.cost.roofline import BYTES_PER_INDEX, UNKNOWN_TOKENS, WORTHWHILE
from sparsecc.formats.blocks import Block, count_blocks, pack_blocks
from sparsecc.formats.codes import EVEN, Codes, block_of, find_codes, pack_codes
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.weights.choose import BLOCKS, LEAST_SKIPPED, TIE
from sparsecc.report.rows import LayerRow
from sparsecc.targets import Target

Weights = Mapping[str, NDArray[np.float32]]
"""Of an op: up, gate if there is one, and down, ``[E, R, K]``."""
_LOADS = "sparsecc.loads"
MOST_ELEMENTS = 2**31 - 1
"""Of a weight of all experts: positions of blocks are of 32 bits."""


class PackMixtures(Pass):
    """Every mixture of experts whose weights are constant becomes one with packed weights."""

    name: ClassVar[str] = "pack-mixtures"

    def __init__(self, target: Target) -> None:
        self.target = target

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Pack where the library can run it."""
        modified = False
        for node in list(model.graph):
            if not ops.is_mixture(node) or ops.is_packed_mixture(node):
                continue
            if why := self._pack(node):
                ctx.refuse(self.name, node, why)
            else:
                modified = True
        if modified and model.functions:
            ops.attach_functions(model)  # a model that brought bodies of ops has one for each
        return modified

    def _pack(self, node: ir.Node) -> str:
        """Pack a node, or say why not."""
        named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
        arrays = {name: edit.constant(named[name]) for name in named if name not in ops.ROUTED}
        known = {name: array for name, array in arrays.items() if array is not None}
        if len(known) < len(arrays):
            return "the weights of its experts are not constant"
        weights = {name: array for name, array in known.items() if not name.endswith("_bias")}
        if max(array.size for array in weights.values()) > MOST_ELEMENTS:
            return f"a weight of its experts has more than {MOST_ELEMENTS} elements"
        form = self._form(weights, routing_of(node, len(weights["up"])))
        inputs: list[ir.Value | None] = [named[name] for name in ops.ROUTED]
        for at, (name, weight) in enumerate(weights.items()):
            bias = known.get(f"{name}_bias", np.zeros(weight.shape[:2], np.float32))
            parts = {**form.arrays(at, weight), "bias": bias.reshape(-1)}
            inputs += [
                edit.new_initializer(node, f"{node.name}.{name}.{part}", parts[part])
                for part in ops.parts_of(form.bits)
            ]
        _replace(node, inputs, len(weights["up"]), form)
        return ""

    def estimates(self, weights: Weights, routings: Sequence[Routing]) -> list[float]:
        """Times of a mixture as it would be packed, in milliseconds.

        Args:
            weights: Of all experts.
            routings: How tokens spread over them, or over fewer that are as dense as all.
        """
        form = self._form(weights, routings[0])
        count = _cells if form.keep_zeros else _stored
        counts = [count(weight, form.block) for weight in weights.values()]
        all_of_them = len(weights["up"])
        return [
            self._ms(weights, each, form, [n * each.experts // all_of_them for n in counts])
            for each in routings
        ]

    def _form(self, weights: Weights, routing: Routing) -> _Form:
        """The form of all weights that is quickest, or near that and small."""
        fitting = [_Form(block) for block in BLOCKS if _fits(block, weights)]
        whole = next(form for height in HEIGHTS for form in fitting if form.block == (height, 1))
        coded = find_codes(list(weights.values())) if whole.block[0] == EVEN else None
        if coded is not None:
            bits = max(each.bits for each in coded)
            whole = _Form(block_of(bits), codes=tuple(coded))
            if all(each.scales.shape[-1] == 1 for each in coded):
                fitting.append(whole)
        cells, stored = (
            {form: [count(weight, form.block) for weight in weights.values()] for form in fitting}
            for count in (_cells, _stored)
        )
        cells[whole] = [_cells(weight, whole.block) for weight in weights.values()]
        limit = WORTHWHILE * self._ms(weights, routing, whole, cells[whole])
        times = {
            form: self._ms(weights, routing, form, counts)
            for form, counts in stored.items()
            if sum(counts) <= (1 - LEAST_SKIPPED) * sum(cells[form])
        }
        quickest = min(times.values(), default=math.inf)
        if quickest > limit:
            return dataclasses.replace(whole, keep_zeros=True)
        tied = [form for form, ms in times.items() if ms <= min(TIE * quickest, limit)]
        return min(tied, key=lambda form: _bytes(form, sum(stored[form])))

    def _ms(self, weights: Weights, routing: Routing, form: _Form, counts: Sequence[int]) -> float:
        packings: list[Packing] = [
            (*weight.shape[1:], form.block, count)
            for weight, count in zip(weights.values(), counts, strict=True)
        ]
        return mixture_ms(routing, packings, cost_model(self.target).target, form.bits).ms


@dataclass(frozen=True, eq=False)
class _Form:
    """How the weights of a mixture are packed.

    Attributes:
        block: Of all of them.
        codes: Of each of them, where they are codes; else none.
        keep_zeros: Whether blocks of zeros are kept.
    """

    block: Block
    codes: tuple[Codes, ...] = ()
    keep_zeros: bool = False

    @property
    def bits(self) -> int | None:
        """Of a code."""
        return 8 // self.block[1] if self.codes else None

    def arrays(self, at: int, weight: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The parts of the packed weight of this number, without its bias."""
        if self.bits is None:
            return ops.packed_arrays(
                pack_blocks(_matrix(weight), self.block, keep_zeros=self.keep_zeros)
            )
        coded = self.codes[at]
        matrix = dataclasses.replace(coded, codes=_matrix(coded.codes))
        packed, scales = pack_codes(matrix, bits=self.bits, keep_zeros=self.keep_zeros)
        return {**ops.packed_arrays(packed), "scales": scales}


def _matrix(weight: NDArray[Any]) -> NDArray[Any]:
    """Experts below one another."""
    return weight.reshape(-1, weight.shape[-1])


def _cells(weight: NDArray[np.float32], block: Block) -> int:
    """Blocks of all experts, stored or not."""
    experts, rows, columns = weight.shape
    return int(math.ceil(experts * rows / block[0]) * math.ceil(columns / block[1]))


def _stored(weight: NDArray[np.float32], block: Block) -> int:
    return count_blocks(_matrix(weight) != 0, block)


def _bytes(form: _Form, count: int) -> float:
    return count * (bytes_per_weight(form.bits) * math.prod(form.block) + BYTES_PER_INDEX)


def _fits(block: Block, weights: Weights) -> bool:
    """Whether no block is of two experts, nor of two chunks of rows that the kernel takes."""
    sizes = (EXPERT_ROWS, *(weight.shape[1] for weight in weights.values()))
    return all(size % block[0] == 0 for size in sizes)


def _replace(node: ir.Node, inputs: Sequence[ir.Value | None], experts: int, form: _Form) -> None:
    activation, gated = ops.parse_mixture(node.op_type)
    old = node.outputs[0]
    numbers = {"experts_count": experts}
    if form.bits is not None:
        numbers["inputs_per_scale"] = max(each.group for each in form.codes)
    fresh = ir.Node(
        ops.DOMAIN,
        ops.sparse_moe_variant(activation, gated=gated, bits=form.bits),
        inputs,
        attributes=[ir.AttrInt64(name, number) for name, number in numbers.items()],
        outputs=[ir.Value(type=old.type, shape=old.shape)],
        name=node.name,
        version=ops.VERSION,
        metadata_props=dict(node.metadata_props),
    )
    fresh.meta.update(node.meta)
    edit.replace([node], [fresh], at=node)


# ---- what is said of them ----
def set_loads(node: ir.Node, loads: Sequence[int]) -> None:
    """Say how often each expert of a node is chosen, as measured."""
    node.meta[_LOADS] = tuple(loads)


def routing_of(node: ir.Node, experts: int, loads: Sequence[int] | None = None) -> Routing:
    """Tokens and chosen experts of a node, typical ones where they are not known.

    Args:
        node: The op.
        experts: How many it has, or is to have.
        loads: How often each is chosen; by default as :func:`set_loads` said.
    """
    chosen = node.inputs[1]
    dims = [None, None] if chosen is None or chosen.shape is None else list(chosen.shape)
    tokens, slots = (
        dim if isinstance(dim, int) else other
        for dim, other in zip(dims, (UNKNOWN_TOKENS, 1), strict=True)
    )
    loads = node.meta.get(_LOADS, ()) if loads is None else loads
    return Routing(tokens, slots, experts, loads if any(loads) else None)


def mixture_estimate(node: ir.Node, target: Target) -> Estimate:
    """Time of a packed mixture of experts, in a region."""
    experts = node.attributes["experts_count"].as_int()
    packings: list[Packing] = []
    for weight in ops.packed_mixture(node).values():
        rows, columns = weight.shape
        packings.append((rows // experts, columns, weight.block, len(weight.index)))
    routing, bits = routing_of(node, experts), ops.bits_of(node.op_type)
    return mixture_ms(routing, packings, cost_model(target).target, bits)


def mixture_rows(model: ir.Model, target: Target) -> dict[str, LayerRow]:
    """Rows of packed mixtures of experts by the names of their nodes."""
    return {
        str(node.name): _row(node, target) for node in model.graph if ops.is_packed_mixture(node)
    }


def _why(routing: Routing) -> str:
    why = "only the experts that tokens chose are computed"
    if routing.shares is None:
        return why
    used = sum(share > 0 for share in routing.shares)
    busiest = max(routing.shares) / sum(routing.shares)
    return (
        f"{why}; on the calibration data {used} are chosen, the busiest for {busiest:.0%} of all "
        f"choices, {routing.largest_over_mean:.1f} times the mean, and a run of {routing.tokens} "
        f"tokens is expected to touch {routing.distinct:.1f}"
    )


def _row(node: ir.Node, target: Target) -> LayerRow:
    experts = node.attributes["experts_count"].as_int()
    weights = ops.packed_mixture(node)
    routing, ours = routing_of(node, experts), mixture_estimate(node, target)
    shapes = [(weight.shape[0] // experts, weight.shape[1]) for weight in weights.values()]
    theirs = total(map(cost_model(target).dense, every_expert(routing, shapes)))
    bits = ops.bits_of(node.op_type)
    stored = sum(len(weight.index) * math.prod(weight.block) for weight in weights.values())
    slots = routing.tokens * routing.chosen
    block, (hidden, features) = weights["up"].block, shapes[0]
    return LayerRow(
        name=str(node.name),
        op=node.op_type,
        shape=(experts * hidden, features),
        macs=slots * math.prod(shapes[0]) * len(shapes),
        density=min(1.0, stored / (experts * math.prod(shapes[0]) * len(shapes))),
        pattern=f"{routing.chosen} of {experts} experts",
        eligible=True,
        why=_why(routing),
        kernel=f"moe-{block[0]}x{block[1]}" + ("" if bits is None else f"-int{bits}"),
        est_ms=round(ours.ms, 6),
        dense_ms=round(theirs.ms, 6),
        spread=round(ours.spread, 4),
        flops=2.0 * slots * stored / experts,
        moved_bytes=int(bytes_per_weight(bits) * stored * routing.distinct / experts),
    )
