"""Time of a mixture of experts: by the experts that are touched, and how full their tiles are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.backends.cuda.experts import Mixture
from sparsecc.cost import roofline
from sparsecc.cost.gpu.mixtures import mixture
from sparsecc.cost.model import UNMEASURED_SPREAD, Estimate, cost_model, total
from sparsecc.cost.roofline import BYTES_PER_INDEX, BYTES_PER_WEIGHT, Work
from sparsecc.errors import BackendError
from sparsecc.formats.blocks import Block
from sparsecc.targets import Target
from sparsecc.targets.cuda import arch_of_target

Packing = tuple[int, int, Block, int]
"""Of one weight: outputs and inputs of an expert, its block, and how many of all experts are
stored."""


@dataclass(frozen=True)
class Routing:
    """How tokens spread over experts.

    Attributes:
        tokens: T of one run.
        chosen: k, experts of a token.
        experts: E.
        shares: Of the chosen slots, how many go to each expert, as measured; None where they are
            spread evenly.
    """

    tokens: int
    chosen: int
    experts: int
    shares: Sequence[float] | None = None

    @property
    def distinct(self) -> float:
        """Experts that some token chooses, on average: the weights that are read."""
        return sum(self._touched)

    @property
    def _touched(self) -> list[float]:
        """For each expert, how likely some token chooses it: ``1 - (1 - k/E)^T`` for all alike."""
        return [1 - max(0.0, 1 - each) ** self.tokens for each in self._chances]

    @property
    def _chances(self) -> list[float]:
        if self.shares is None:
            return [min(1.0, self.chosen / self.experts)] * self.experts
        whole = sum(self.shares)
        return [min(1.0, self.chosen * share / whole) for share in self.shares]

    @property
    def loads(self) -> list[tuple[float, float]]:
        """For each expert how likely it is touched, and its tokens where it is, on average."""
        return [
            (touched, self.tokens * chance / touched)
            for chance, touched in zip(self._chances, self._touched, strict=True)
            if touched > 0
        ]

    @property
    def largest_over_mean(self) -> float:
        """Load of the busiest expert over the mean.

        As measured; of experts that are chosen alike ``1 + sqrt(2 ln E · E (1 - k/E) / (T k))``,
        which is within 11 % where ``T k / E >= 2``.
        """
        if self.shares is not None:
            return max(self.shares) * self.experts / sum(self.shares)
        slots = max(1, self.tokens * self.chosen)
        spread = 2 * math.log(self.experts) * self.experts * (1 - self.chosen / self.experts)
        return 1 + math.sqrt(max(0.0, spread) / slots)


def bytes_per_weight(bits: int | None) -> float:
    """Of a stored weight: a number, or a code of so many bits."""
    return BYTES_PER_WEIGHT if bits is None else bits / 8


def mixture_ms(
    routing: Routing, weights: Sequence[Packing], target: Target, bits: int | None = None
) -> Estimate:
    """Time of one run on one thread.

    On a GPU that of its launches. Elsewhere the slower of arithmetic, ``Σ ⌈m_e / m_t⌉ m_t`` tokens
    of each touched expert times its stored weights, and of reading these weights once.
    """
    if target.family == "cuda":
        return _on_gpu(routing, weights, target)
    flops = 0.0
    stored = [blocks * math.prod(block) for *_, block, blocks in weights]
    for touched, load in routing.loads:
        few = load <= roofline.FEW_POINTS
        padded = load if few else math.ceil(load / target.lanes) * target.lanes
        flops += touched * padded * 2 * sum(stored) / routing.experts
    indices = sum(blocks for *_, blocks in weights)
    whole = bytes_per_weight(bits) * sum(stored) + BYTES_PER_INDEX * indices
    read = whole * routing.distinct / routing.experts
    gbs = target.bandwidths[-2 if whole <= target.llc_bytes else -1]
    slots = routing.tokens * routing.chosen * sum(rows + columns for rows, columns, *_ in weights)
    compute = sum(
        flops * part / max(1, sum(stored)) / _efficiency(block)
        for part, (*_, block, _) in zip(stored, weights, strict=True)
    )
    ms = max(compute / target.peak_gflops, read / gbs) * 1e-6
    moved = BYTES_PER_WEIGHT * slots / roofline.LAYOUT_GBS * 1e-6
    return Estimate(roofline.NODE_MS + moved + ms, UNMEASURED_SPREAD)


def _on_gpu(routing: Routing, weights: Sequence[Packing], target: Target) -> Estimate:
    """The kernels for GPUs multiply by whole weights of experts that are touched.

    Where they do not take a mixture, every expert is computed.
    """
    costs, (inner, features, *_) = cost_model(target), weights[0]
    sizes = (routing.tokens, routing.chosen, routing.experts, features, inner)
    gated, arch = len(weights) > len(("up", "down")), arch_of_target(target)
    try:
        what = Mixture(*sizes, "relu", gated, False, "float16", arch)
        return costs.task(mixture(what, routing.loads))
    except BackendError:
        shapes = [(rows, columns) for rows, columns, *_ in weights]
        return total(map(costs.dense, every_expert(routing, shapes)))


def _efficiency(block: Block) -> float:
    return roofline.sparse_efficiency(block, beside=True).eta


def every_expert(routing: Routing, shapes: Sequence[tuple[int, int]]) -> list[Work]:
    """The layers of a model that computes all experts for all tokens, ``(R, K)`` of each weight."""
    layers = [
        Work(rows, columns, routing.tokens, 1, routing.tokens * columns, is_conv=False)
        for rows, columns in shapes
    ]
    return layers * routing.experts
