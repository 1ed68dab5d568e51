"""Operators on one core: measured, described as a device, and predicted on other sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from torch.nn import functional

from benchmarks.training.model import activated, norm
from benchmarks.training.timing import seconds
from sparsecc.simulate import Choice, costs
from sparsecc.simulate.cluster import Device
from sparsecc.simulate.layer import Layers
from sparsecc.simulate.model import Model

KNOTS = {
    "matrix": (1e6, 1e7, 1e8, 1e9),
    "experts": (1e6, 1e7, 1e8, 1e9),
    "attention": (1e6, 1e7, 1e8, 1e9),
    "attention_backward": (1e6, 1e7, 1e8, 1e9),
    "streamed": (1e5, 1e6, 1e7, 1e8),
}
"""Sizes at which the share that is achieved is fitted: FLOPs, and bytes of what streams."""
BANDWIDTH = 5e10
"""Bytes a second that nothing here reaches: shares say what is."""


@dataclass(frozen=True)
class Sample:
    """An operator of some size.

    Attributes:
        operator: Which.
        model: Holds what its size is, as far as the simulator reads it from a model.
        size: The rest of it.
        seconds: As measured.
    """

    operator: str
    model: Model
    size: tuple[float, ...]
    seconds: float


def predicted(device: Device, sample: Sample) -> float:
    """What the simulator says of a sample."""
    model, size = sample.model, sample.size
    if sample.operator == "matrix":
        return costs.product(device, model, *size)
    if sample.operator == "streamed":
        return costs.streaming(device, size[0])
    if sample.operator == "experts":
        return costs.experts(device, model, size[1:], backward=bool(size[0]))
    backward = sample.operator == "attention_backward"
    return costs.attention(device, model, *size, backward=backward)


def measure(model: Model, rng: np.random.Generator, count: int) -> Iterator[Sample]:
    """So many samples of every operator, of sizes around those of a model."""
    with torch.no_grad():
        for _ in range(count):
            yield _matrix(model, rng)
        for backward in (False, True):
            for _ in range(count // 2):
                yield _experts(model, rng, backward=backward)
    for _ in range(count // 2):
        yield from _attention(model, rng)
    for _ in range(count // 2):
        yield from _streamed(model, rng)


def _between(rng: np.random.Generator, low: int, high: int, step: int = 1) -> int:
    """A number from a range, even in the logarithm, a multiple of a step."""
    return step * round(math.exp(rng.uniform(math.log(low), math.log(high))) / step)


def _matrix(model: Model, rng: np.random.Generator) -> Sample:
    """A product as forward has it, or one of the two that backward has."""
    m, k, n = _between(rng, 32, 2048), _between(rng, 32, 1024, 16), _between(rng, 32, 2048, 16)
    first, second = torch.randn(m, k), torch.randn(k, n)
    if rng.integers(2):
        first = first.t().contiguous().t()
    if rng.integers(2):
        second = second.t().contiguous().t()
    return Sample("matrix", model, (m, k, n), seconds(lambda: first @ second))


def _experts(model: Model, rng: np.random.Generator, *, backward: bool) -> Sample:
    own = int(rng.choice([1, 2, 4, 8]))
    loads = [_between(rng, 8, 256) for _ in range(own)]
    d, width = model.d, model.expert_width
    tokens = [torch.randn(m, d) for m in loads]
    hidden = [torch.randn(m, width) for m in loads]
    wide = [torch.randn(m, 2 * width) for m in loads]
    up = [torch.randn(d, 2 * width) for _ in loads]
    down = [torch.randn(width, d) for _ in loads]

    def forward_all() -> None:
        for x, h, u, v in zip(tokens, hidden, up, down, strict=True):
            x @ u
            h @ v

    def backward_all() -> None:
        for x, h, w, u, v in zip(tokens, hidden, wide, up, down, strict=True):
            x @ v.t()
            h.t() @ x
            w @ u.t()
            x.t() @ w

    time = seconds(backward_all if backward else forward_all)
    return Sample("experts", model, (float(backward), *map(float, loads)), time)


def _attention(model: Model, rng: np.random.Generator) -> Iterator[Sample]:
    sequences, heads = int(rng.choice([1, 2, 4, 8])), int(rng.choice([1, 2, 4]))
    s = _between(rng, 32, 512, 8)
    sized = model.model_copy(update={"sequence": s})
    shape = (sequences, heads, s, model.attention.key_dim)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))

    def forward() -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    with torch.no_grad():
        yield Sample("attention", sized, (sequences, heads), seconds(forward))
    out, grad = forward(), torch.randn(shape)
    time = seconds(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
    yield Sample("attention_backward", sized, (sequences, heads), time)


def _streamed(model: Model, rng: np.random.Generator) -> Iterator[Sample]:
    """All of a layer that is no product and no attention: forward, and backward of it."""
    tokens = _between(rng, 32, 2048)
    rest = _Rest(model)
    x = torch.randn(tokens, model.d, requires_grad=True)
    hidden = torch.randn(tokens, 2 * model.shared * model.expert_width, requires_grad=True)
    wide = torch.randn(tokens * model.top_k, 2 * model.expert_width, requires_grad=True)
    scores = torch.randn(tokens, model.experts, requires_grad=True)
    made = torch.randn(tokens * model.top_k, model.d, requires_grad=True)
    inputs = (x, hidden, wide, scores, made)
    size = streamed_bytes(model, tokens)
    with torch.no_grad():
        yield Sample("streamed", model, (size,), seconds(lambda: rest(*inputs)))
    outs = rest(*inputs)
    grads = [torch.randn_like(out) for out in outs]

    def backward() -> Any:
        return torch.autograd.grad(outs, inputs, grads, retain_graph=True)

    yield Sample("streamed", model, (2 * size,), seconds(backward))


def streamed_bytes(model: Model, tokens: int) -> float:
    """What the simulator counts of a layer with experts."""
    from benchmarks.training.links import described

    sized = model.model_copy(update={"sequence": tokens, "batch": 1})
    one = Device(peak={"float32": 1.0}, memory=1.0, bandwidth=1.0)
    layer = Layers(sized, described(one, 1), Choice())
    return layer.layer("experts")[0].compute["streaming"]


class _Rest:
    """The norms, residuals, activation functions and routing of a layer with experts."""

    def __init__(self, model: Model) -> None:
        self.model, self.weight = model, torch.ones(model.d)

    def __call__(
        self,
        x: torch.Tensor,
        hidden: torch.Tensor,
        wide: torch.Tensor,
        scores: torch.Tensor,
        made: torch.Tensor,
    ) -> list[torch.Tensor]:
        k = self.model.top_k
        first = x + norm(x, self.weight)
        seen = norm(first, self.weight)
        gates, chosen = scores.softmax(-1).topk(k)
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=self.model.experts)
        copies = seen[order // k]
        parts = [activated(part) for part in wide.split(counts.tolist())]
        weighted = made * gates.flatten()[order, None]
        back = torch.zeros_like(x).index_add(0, order // k, weighted)
        return [first + seen, seen + back, copies, torch.cat(parts), activated(hidden)]


def fit(samples: Sequence[Sample]) -> Device:
    """The device whose predictions are closest to what was measured."""
    rates = [
        2 * math.prod(each.size) / each.seconds for each in samples if each.operator == "matrix"
    ]
    device = Device(peak={"float32": max(rates)}, memory=8e9, bandwidth=BANDWIDTH)
    for operator in KNOTS:
        own = [each for each in samples if each.operator == operator]
        device = _fitted(device, operator, own)
    return device


def _fitted(device: Device, operator: str, samples: Sequence[Sample]) -> Device:
    """With the start, the half depth and the shares of one operator fitted."""
    knots = KNOTS[operator]

    def described(values: Sequence[float]) -> Device:
        start, depth, *shares = (float(value) for value in values)
        curve = tuple(zip(knots, (min(1.0, math.exp(each)) for each in shares), strict=True))
        if operator == "streamed":
            return device.model_copy(update={"start": math.exp(start), "streamed": curve})
        speed = {"start": math.exp(start), "half_depth": math.exp(depth), "achieved": curve}
        fields = device.model_dump()
        fields["speeds"] |= {operator: speed}
        return Device.model_validate(fields)

    def off(values: Sequence[float]) -> list[float]:
        made = described(values)
        return [math.log(predicted(made, each) / each.seconds) for each in samples]

    first = [math.log(5e-6), 2.0] + [math.log(0.5)] * len(knots)
    low = [math.log(1e-8), -3.0] + [math.log(1e-3)] * len(knots)
    high = [math.log(1e-2), 7.0] + [0.0] * len(knots)
    found = least_squares(off, first, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    return described(found.x)
