"""Small twins of the benchmark models."""

from __future__ import annotations

from benchmarks import spec
from benchmarks.spec import Layer

# Thinner or smaller, a squeezed layer or the statistics of a 2×2 map would fall apart.
WIDTHS = dict.fromkeys(("mobilenet_v3_large", "mobilenet_v3_small"), 0.25)
SIZES = {"bert_base": 16, "minilm_l6": 16, "efficientnet_b0": 128}


def shrunk(name: str) -> list[Layer]:
    """A benchmark model, thinner and on a smaller input."""
    return spec.shrink(spec.load(name), WIDTHS.get(name, 0.125), SIZES.get(name, 64))
