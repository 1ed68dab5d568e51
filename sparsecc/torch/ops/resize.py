"""Images of other sizes: Resize and its older form, sampling at given places."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op, as_list

Numbers = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How Resize interpolates: its attributes."""

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: its size before and after, the ratio of the two, and the part that is read."""

    before: int
    after: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


def _places(axis: Axis, rule: Rule) -> Numbers:
    """Where on the input's axis every element of the output lies."""
    i: Numbers = np.arange(axis.after, dtype=np.float64)
    exact, last = axis.scale * axis.before, axis.before - 1
    half: Numbers = (i + 0.5) / axis.scale - 0.5
    match rule.coordinates:
        case "asymmetric":
            return i / axis.scale
        case "align_corners":
            return i * last / (exact - 1) if exact > 1 else 0 * i
        case "pytorch_half_pixel":
            return half if axis.after > 1 else 0 * i
        case "half_pixel_symmetric":
            return half + axis.before / 2 * (1 - axis.after / exact)
        case "tf_crop_and_resize":
            start, end = axis.roi
            if axis.after == 1:
                return np.array([0.5 * (start + end) * last])
            return start * last + i * (end - start) * last / (axis.after - 1)
        case _:
            return half


_NEAREST: dict[str, Callable[[Numbers], Numbers]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _triangle(x: Numbers) -> Numbers:
    part: Numbers = np.clip(1 - np.abs(x), 0, 1)
    return part


def _cubic(x: Numbers, a: float) -> Numbers:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


@functools.lru_cache(maxsize=128)
def _nearest_places(axis: Axis, rule: Rule) -> NDArray[np.int64]:
    places = _NEAREST[rule.nearest](_places(axis, rule))
    return np.clip(places, 0, axis.before - 1).astype(np.int64)


@functools.lru_cache(maxsize=64)
def _weights(axis: Axis, rule: Rule, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[after, before]``: what every element of the input counts for in the output."""
    places = _places(axis, rule)
    floor = np.floor(places)
    radius = 1 if rule.mode == "linear" else 2
    scale = min(axis.scale, 1.0) if rule.antialias else 1.0
    first = math.floor(-radius / scale) + 1
    taps = np.arange(first, radius + 1 - first if rule.mode == "linear" else radius - first)
    distances = scale * (taps - (places - floor)[:, None])
    parts = _triangle(distances) if rule.mode == "linear" else _cubic(distances, rule.cubic)
    at = floor[:, None].astype(np.int64) + taps
    if rule.exclude_outside:
        parts = np.where((at >= 0) & (at < axis.before), parts, 0)
    if rule.exclude_outside or rule.antialias:
        parts = parts / parts.sum(1, keepdims=True)
    weights = np.zeros((axis.after, axis.before))
    rows = np.arange(axis.after)[:, None]
    np.add.at(weights, (rows, np.clip(at, 0, axis.before - 1)), parts)
    return torch.from_numpy(weights).to(device, dtype)


def _interpolated(x: Tensor, axes: dict[int, Axis], rule: Rule) -> Tensor:
    """`x` resized along the axes, one after the other."""
    simple = _by_torch(x, axes, rule)
    if simple is not None:
        return simple
    dtype, result = x.dtype, x
    if rule.mode != "nearest" and not x.is_floating_point():
        result = x.double()
    for number, axis in axes.items():
        if rule.mode == "nearest":
            places = torch.from_numpy(_nearest_places(axis, rule)).to(x.device)
            result = result.index_select(number, places)
        else:
            weights = _weights(axis, rule, result.dtype, x.device)
            result = (result.movedim(number, -1) @ weights.t()).movedim(-1, number)
        if rule.coordinates == "tf_crop_and_resize":
            where = _places(axis, rule)
            outside = torch.from_numpy((where < 0) | (where > axis.before - 1)).to(x.device)
            outside = outside.reshape([-1, *[1] * (x.dim() - 1 - number)])
            result = result.masked_fill(outside, rule.extrapolation)
    return result if result.dtype == dtype or dtype.is_floating_point else result.to(dtype)


def _by_torch(x: Tensor, axes: dict[int, Axis], rule: Rule) -> Tensor | None:
    """The same by torch's own kernels, in the cases that they cover."""
    if x.dim() != 4 or list(axes) != [2, 3] or not x.is_floating_point() or rule.antialias:
        return None
    sizes = [axis.after for axis in axes.values()]
    if rule.mode == "nearest":
        for axis in axes.values():
            factor = axis.after // axis.before
            copies = np.arange(axis.after) // max(1, factor)
            if not factor or not np.array_equal(_nearest_places(axis, rule), copies):
                return None
        return functional.interpolate(x, sizes, mode="nearest")
    exact = all(axis.scale * axis.before == axis.after > 1 for axis in axes.values())
    if rule.mode != "linear" or not exact:
        return None
    if rule.coordinates in ("half_pixel", "pytorch_half_pixel"):
        return functional.interpolate(x, sizes, mode="bilinear", align_corners=False)
    if rule.coordinates == "align_corners":
        return functional.interpolate(x, sizes, mode="bilinear", align_corners=True)
    return None


def _resize(node: NodeView) -> Function:
    mode = node.get("mode", "nearest")
    node.ignore("cubic_coeff_a", "exclude_outside", "extrapolation_value")
    if node.opset < 11:
        rule = Rule(mode, "asymmetric", "floor")
        known = node.numbers(1)

        def older(x: Tensor, scales: Tensor) -> Tensor:
            factors = known or as_list(scales)
            return _interpolated(x, _axes(x, range(x.dim()), factors, None, None, None), rule)

        return older
    rule = Rule(
        mode,
        node.get("coordinate_transformation_mode", "half_pixel"),
        node.get("nearest_mode", "round_prefer_floor"),
        node.get("cubic_coeff_a", -0.75),
        bool(node.get("exclude_outside", 0)),
        bool(node.get("antialias", 0)) and mode != "nearest",
        node.get("extrapolation_value", 0.0),
    )
    along, policy = node.get("axes"), node.get("keep_aspect_ratio_policy", "stretch")
    constants = [node.numbers(position) for position in (1, 2, 3)]

    def resize(x: Tensor, *given: Tensor | None) -> Tensor:
        roi, scales, sizes = (
            known if known is not None else as_list(given[at]) if at < len(given) else None
            for at, known in enumerate(constants)
        )
        numbers = [axis % x.dim() for axis in along] if along else range(x.dim())
        return _interpolated(x, _axes(x, numbers, scales, sizes, roi, policy), rule)

    return resize


def _axes(
    x: Tensor,
    numbers: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    roi: Sequence[float] | None,
    policy: str | None,
) -> dict[int, Axis]:
    """The axes whose size changes, or of which only a part is read."""
    before = [x.shape[axis] for axis in numbers]
    if sizes:
        factors = [size / old for size, old in zip(sizes, before, strict=True)]
        after = list(sizes)
        if policy in ("not_larger", "not_smaller"):
            one = (min if policy == "not_larger" else max)(factors)
            factors = [one] * len(before)
            after = [math.floor(one * old + 0.5) for old in before]
    else:
        factors = list(scales or [])
        after = [math.floor(old * factor) for old, factor in zip(before, factors, strict=True)]
    axes = {}
    for at, number in enumerate(numbers):
        part = (roi[at], roi[at + len(before)]) if roi else (0.0, 1.0)
        if before[at] != after[at] or factors[at] != 1 or part != (0.0, 1.0):
            axes[number] = Axis(before[at], after[at], factors[at], part)
    return axes


def _upsample(node: NodeView) -> Function:
    mode, fixed = node.get("mode", "nearest"), node.get("scales")
    rule = Rule("linear" if mode in ("linear", "bilinear") else "nearest", "asymmetric", "floor")
    if node.opset < 9 and fixed is None:
        raise node.refuse("scales by width and height are older than opset 7")

    def upsample(x: Tensor, scales: Tensor | None = None) -> Tensor:
        factors = fixed if scales is None else as_list(scales)
        return _interpolated(x, _axes(x, range(x.dim()), factors, None, None, None), rule)

    return upsample


_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}
"""Names from opset 20 on, in torch's words."""


def _grid_sample(node: NodeView) -> Function:
    mode = node.get("mode", "linear" if node.opset >= 20 else "bilinear")
    padding, corners = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    by = _SAMPLING.get(mode, mode)
    value = node.node.inputs[0]
    if by == "bicubic" and value is not None and value.shape is not None and len(value.shape) == 5:
        raise node.refuse("cubic sampling of volumes")
    return lambda x, grid: functional.grid_sample(x, grid, by, padding, corners)


def _affine_grid(node: NodeView) -> Function:
    corners = bool(node.get("align_corners", 0))
    return lambda theta, size: functional.affine_grid(theta, as_list(size), corners)


OPS: dict[str, Op] = {
    "AffineGrid": Op(_affine_grid, host=(1,)),
    "GridSample": Op(_grid_sample),
    "Resize": Op(_resize, host=(1, 2, 3)),
    "Upsample": Op(_upsample, host=(1,)),
}
