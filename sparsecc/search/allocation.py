"""Spreading a requested sparsity over the layers of a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, Protocol, TypeVar

import numpy as np

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import DENSE, Detected, Pattern, SparsitySpec
from sparsecc.search.plan import Choice, Method

Allocation = Literal["uniform", "erk", "owl", "spdy"]
ALLOCATIONS: tuple[Allocation, ...] = ("uniform", "erk", "owl", "spdy")
MEASURED: tuple[Allocation, ...] = ("owl", "spdy")
"""Allocations that come from the calibration data (:mod:`sparsecc.passes.weights.spread`)."""
OWL_SPREAD = 0.08
LEAST_KEPT = 0.25
"""No allocation keeps a smaller part of a layer than this part of the density asked for."""


class LayerShape(Protocol):
    """What allocation needs to know about a layer (see passes.weights.layers.Layer)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def cols(self) -> int: ...  # noqa: D102
    @property
    def groups(self) -> int: ...  # noqa: D102
    @property
    def kernel(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def keep_dense(self) -> str: ...  # noqa: D102


Shape = TypeVar("Shape", bound=LayerShape)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is done to a layer and, where that is not what was asked for, why."""

    choice: Choice
    reason: str = ""


def allocate(
    layers: Sequence[LayerShape],
    spec: SparsitySpec,
    *,
    overrides: Mapping[str, SparsitySpec] | None = None,
    densities: Mapping[str, float] | None = None,
    method: Method = "sparsegpt",
    refit: bool = True,
    detected: Mapping[str, Detected] | None = None,
) -> dict[str, Decision]:
    """Decide pattern and sparsity of every layer.

    Args:
        layers: The prunable layers.
        spec: The request for layers without an override; their own ``keep_dense`` comes first.
        overrides: Name pattern (as in :mod:`fnmatch`) → request. The first that matches wins,
            also over ``keep_dense``.
        densities: Of the layers of :func:`to_spread`, by name, where they are not all as asked for.
        method: How masks are found.
        refit: Whether the weights that stay may change.
        detected: The zeros already in each layer, by name; needed for ``existing``.

    Returns:
        Layer name → decision, in the order of ``layers``.

    Raises:
        PlanError: An override matches no layer.
    """
    named = by_override(layers, overrides or {})
    decisions: dict[str, Decision] = {}
    for layer in layers:
        request = named.get(layer.name, spec)
        if request.pattern is None:
            decisions[layer.name] = _keep_zeros(layer.name, detected)
            continue
        reason = misfit(layer, request.pattern)
        if not reason and layer.name not in named:
            reason = layer.keep_dense
        pattern = DENSE if reason else request.pattern
        kept = (densities or {}).get(layer.name)
        sparsity = request.sparsity if kept is None else 1 - kept
        choice = Choice(
            pattern=pattern,
            sparsity=0.0 if pattern == DENSE else sparsity,
            method=method,
            refit=refit,
        )
        decisions[layer.name] = Decision(choice, reason)
    return decisions


def to_spread(
    layers: Sequence[Shape], spec: SparsitySpec, overrides: Mapping[str, SparsitySpec] | None = None
) -> list[Shape]:
    """The layers that share out the sparsity of a request: none where it fixes that of each.

    Raises:
        PlanError: An override matches no layer.
    """
    named = by_override(layers, overrides or {})
    if spec.pattern is None or spec.pattern.kind in ("nm", "dense"):
        return []
    return [layer for layer in layers if layer.name not in named and _why_dense(layer, spec) == ""]


def by_size(
    layers: Sequence[LayerShape],
    spec: SparsitySpec,
    overrides: Mapping[str, SparsitySpec] | None = None,
) -> dict[str, float]:
    """Layer name → density by :func:`erk`, of the layers that share out a request."""
    free = to_spread(layers, spec, overrides)
    kept = erk(free, 1 - spec.sparsity)
    return {layer.name: density for layer, density in zip(free, kept, strict=True)}


def erk(layers: Sequence[LayerShape], density: float) -> list[float]:
    """Erdős–Rényi-kernel densities whose weighted mean is ``density``.

    A layer's density is proportional to (n_in + n_out + kh + kw) / (n_in·n_out·kh·kw); what would
    exceed 1 is clipped and the rest solved again.
    """
    sizes = [layer.rows * layer.cols for layer in layers]
    return scaled([_erk_weight(layer) for layer in layers], sizes, density)


def scaled(shares: Sequence[float], sizes: Sequence[float], density: float) -> list[float]:
    """Densities in proportion to ``shares``, at most 1, whose mean weighted by size is given."""
    full: set[int] = set()
    while True:
        free = [i for i in range(len(shares)) if i not in full]
        budget = density * sum(sizes) - sum(sizes[i] for i in full)
        factor = budget / sum(shares[i] * sizes[i] for i in free) if free else 0.0
        clipped = {i for i in free if factor * shares[i] > 1}
        if not clipped:
            return [1.0 if i in full else factor * share for i, share in enumerate(shares)]
        full |= clipped


def owl(outliers: Sequence[float], sizes: Sequence[float], density: float) -> list[float]:
    """Densities that follow outliers (Yin et al. 2024), their mean weighted by size ``density``.

    Args:
        outliers: Per layer: share of its Wanda scores above five times their mean.
        sizes: Weights of each layer.
        density: Of all layers together. Layers differ from each other by at most 2·.08; what
            would leave 0 to 1, or keep next to nothing, is clipped and the rest scaled.
    """
    shares = np.asarray(outliers, np.float64)
    width = np.ptp(shares) if len(shares) else 0.0
    if not width:
        return [density] * len(shares)
    above = 2 * OWL_SPREAD * (shares - shares.min()) / width
    wanted = density + above - np.average(above, weights=sizes)
    return scaled(np.clip(wanted, LEAST_KEPT * density, 1.0).tolist(), sizes, density)


def _erk_weight(layer: LayerShape) -> float:
    area = math.prod(layer.kernel)
    inputs = layer.cols / area
    return (inputs + layer.rows + sum(layer.kernel)) / (inputs * layer.rows * area)


def by_override(
    layers: Sequence[LayerShape], overrides: Mapping[str, SparsitySpec]
) -> dict[str, SparsitySpec]:
    """Layer name → what is asked of it by name; the first pattern that matches counts.

    Raises:
        PlanError: A pattern matches no layer.
    """
    names = [layer.name for layer in layers]
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise PlanError(
                f"the override {pattern!r} matches no prunable layer",
                fix=f"the layers are {shown or 'none at all'}; see `sparsecc inspect`",
            )
    found: dict[str, SparsitySpec] = {}
    for name in names:
        match = next((p for p in overrides if fnmatchcase(name, p)), None)
        if match is not None:
            found[name] = overrides[match]
    return found


def _why_dense(layer: LayerShape, spec: SparsitySpec) -> str:
    return layer.keep_dense or (misfit(layer, spec.pattern) if spec.pattern else "")


def misfit(layer: LayerShape, pattern: Pattern) -> str:
    """Why a pattern does not fit a layer, or ""."""
    side = pattern.block[0]
    if layer.groups > 1 and (layer.rows // layer.groups) % side:
        return f"{layer.rows // layer.groups} rows per group do not divide into blocks of {side}"
    return ""


def _keep_zeros(name: str, detected: Mapping[str, Detected] | None) -> Decision:
    if detected is None or name not in detected:
        raise ValueError(f"no detected zeros given for layer {name!r}")
    found = detected[name]
    choice = Choice(
        pattern=found.pattern, sparsity=1 - found.density, method="existing", refit=False
    )
    return Decision(choice, "no zeros to use" if found.pattern == DENSE else "")
