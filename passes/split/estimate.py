"""What a feed-forward network takes: whole, and as experts behind a router."""

from __future__ import annotations

from collections.abc import Sequence

from sparsecc.cost import roofline
from sparsecc.cost.model import HEIGHTS, cost_model, total
from sparsecc.cost.moe import Packing, Routing, mixture_ms
from sparsecc.cost.roofline import BYTES_PER_WEIGHT, Work
from sparsecc.passes.split.find import FeedForward
from sparsecc.passes.weights.choose import work_of
from sparsecc.targets import Target

_SORTED = 4
"""Times that scores of experts are read while the best are taken: in part sorted."""
_NODES = 9
"""Of a router in standard ops."""


def whole_ms(found: FeedForward, target: Target) -> float:
    """Of all neurons without a router."""
    model = cost_model(target)
    parts = [part.layer for part in (found.up, found.gate, found.down) if part is not None]
    return total(model.dense(work_of(each)) for each in parts).ms


def experts_ms(found: FeedForward, shares: Sequence[float], chosen: int, target: Target) -> float:
    """Of some experts for each token, and of choosing them.

    Args:
        found: The network.
        shares: Of the chosen slots, how many each expert gets.
        chosen: Experts of a token.
        target: Where it runs.
    """
    count, tokens, model = len(shares), work_of(found.up.layer).points, cost_model(target)
    size, features = found.neurons // count, found.features
    height = next(each for each in HEIGHTS if size % each == 0 and features % each == 0)
    sides = [(size, features)] * (1 if found.gate is None else 2) + [(features, size)]
    packed: list[Packing] = [
        (rows, cols, (height, 1), count * rows * cols // height) for rows, cols in sides
    ]
    layers = [_work(count, features, tokens), _work(count, count, tokens)]
    router = total(model.dense(each) for each in layers).ms
    moved = BYTES_PER_WEIGHT * tokens * (2 * features + _SORTED * count)
    streamed = moved / roofline.LAYOUT_GBS * 1e-6 + _NODES * roofline.NODE_MS
    routing = Routing(tokens, chosen, count, shares)
    return router + streamed + mixture_ms(routing, packed, model.target).ms


def _work(rows: int, cols: int, tokens: int) -> Work:
    return Work(rows, cols, tokens, 1, tokens * cols, is_conv=False)
