"""Sparse iso-FLOP replacement of dense layers before training (Thangarasa et al. 2023).

A layer of R outputs and K inputs, and a sparsity s, become something sparse and larger that takes
as many multiply-adds:

==============  ===================================================================================
``wide``        widths × √(1 / (1 − s)) through a chain of layers
``parallel``    n = 1 / (1 − s) sparse layers of the same shape: y = Σ σ(Wᵢ x + bᵢ)
``factorised``  W₂ σ(W₁ x), both sparse, with d = R K / ((R + K) (1 − s)) features between
``doped``       a dense product of rank s R K / (R + K) plus a sparse layer: W₂ W₁ x + W x
==============  ===================================================================================

Widths are whole numbers, and multiples of a block's rows; the sparsity of each layer is then solved
again, so that multiply-adds are those of the dense layer to a block or two.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsecc.errors import ModelError, PlanError
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.torch.module_layers import TorchLayer, find_layers

Kind = Literal["wide", "parallel", "factorised", "doped"]

_READS_ITS_WEIGHTS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""Modules that do not only call their linears, so that these cannot be replaced."""


@dataclasses.dataclass(frozen=True)
class Replaced:
    """A module to be trained sparse.

    Attributes:
        module: The new module; its weights are fresh where layers were replaced.
        overrides: Layer name → request, for ``Sparsifier(module, "dense", overrides=overrides)``.
    """

    module: nn.Module
    overrides: dict[str, str]


class Parallel(nn.Module):  # type: ignore[misc]
    """y = Σ σ(Wᵢ x + bᵢ)."""

    def __init__(self, branches: list[nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches."""
        return sum(self.activation(branch(x)) for branch in self.branches)


class Doped(nn.Module):  # type: ignore[misc]
    """y = W₂ W₁ x + W x + b."""

    def __init__(self, low_rank: nn.Module, sparse: nn.Module) -> None:
        super().__init__()
        self.low_rank, self.sparse = low_rank, sparse

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        result: Tensor = self.low_rank(x) + self.sparse(x)
        return result


def sparse_ift(
    module: nn.Module, spec: str, kind: Kind, activation: Callable[[], nn.Module] = nn.ReLU
) -> Replaced:
    """Replace the layers of a module, before it is trained, by sparse ones of equal cost.

    ``wide`` takes an ``nn.Sequential`` (nested ones too) of linear layers, convolutions, norms over
    channels and layers without weights, and widens all but its input and output. The others take
    any module, replace layer by layer, and leave alone what would stay dense (tiny layers, first
    convolutions, the last layer) and, but for ``parallel``, convolutions of groups.

    Args:
        module: The module; it is not changed.
        spec: Pattern and sparsity, such as ``4x1:0.8``.
        kind: What layers become.
        activation: Makes the σ of ``parallel`` and ``factorised``.

    Raises:
        PlanError: The request has no sparsity to choose, or the kind is unknown.
        ModelError: ``wide`` has no chain to widen; names the module that is none.
    """
    asked = SparsitySpec.parse(str(spec))
    if asked.pattern is None or asked.pattern.kind in ("dense", "nm") or not asked.sparsity:
        raise PlanError(
            f"{spec!r} fixes the sparsity by itself, or has none",
            fix="ask for blocks or single weights with a share of zeros, such as 4x1:0.8",
        )
    if kind == "wide":
        return _widen(module, asked)
    if kind not in _BUILDERS:
        names = ", ".join(("wide", *_BUILDERS))
        raise PlanError(f"unknown replacement {kind!r}", fix=f"use one of {names}")
    fresh = copy.deepcopy(module)
    overrides: dict[str, str] = {}
    for layer in find_layers(fresh):
        if _stays(fresh, layer, kind):
            continue
        made, sparse = _BUILDERS[kind](layer, asked, activation)
        parent, _, last = layer.name.rpartition(".")
        setattr(fresh.get_submodule(parent), last, made)
        overrides |= {f"{layer.name}.{name}": spec for name, spec in sparse.items()}
    return Replaced(fresh, overrides)


def sparse_flops(module: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one call: two for each non-zero weight and output position.

    Counted are the linear layers and convolutions that the module calls.
    """
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        positions = output.numel() // layer.weight.shape[0]
        total += 2 * int(torch.count_nonzero(layer.weight)) * positions

    layers = [each for each in module.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _stays(module: nn.Module, layer: TorchLayer, kind: str) -> bool:
    parent = module.get_submodule(layer.name.rpartition(".")[0])
    reads = isinstance(parent, _READS_ITS_WEIGHTS) or isinstance(layer.module, _READS_ITS_WEIGHTS)
    # A module that is one layer has no place to put another in.
    whole = not layer.name
    return bool(layer.keep_dense) or reads or whole or (layer.groups > 1 and kind != "parallel")


def _parallel(
    layer: TorchLayer, asked: SparsitySpec, activation: Callable[[], nn.Module]
) -> tuple[nn.Module, dict[str, str]]:
    count = max(2, round(1 / (1 - asked.sparsity)))
    branches = [_fresh(layer.module) for _ in range(count)]
    sparse = {f"branches.{i}": _request(asked, 1 / count) for i in range(count)}
    return Parallel(branches, activation()), sparse


def _factorised(
    layer: TorchLayer, asked: SparsitySpec, activation: Callable[[], nn.Module]
) -> tuple[nn.Module, dict[str, str]]:
    dense, parts = layer.rows * layer.cols, layer.rows + layer.cols
    between = _width(dense / parts / (1 - asked.sparsity), asked)
    bias = layer.module.bias is not None
    first, second = _pair(layer.module, between, first_bias=bias, second_bias=bias)
    request = _request(asked, dense / (parts * between))
    return nn.Sequential(first, activation(), second), {"0": request, "2": request}


def _doped(
    layer: TorchLayer, asked: SparsitySpec, activation: Callable[[], nn.Module]
) -> tuple[nn.Module, dict[str, str]]:
    dense, parts = layer.rows * layer.cols, layer.rows + layer.cols
    rank = max(1, int(asked.sparsity * dense / parts))
    low_rank = nn.Sequential(*_pair(layer.module, rank, first_bias=False, second_bias=False))
    request = _request(asked, (dense - rank * parts) / dense)
    return Doped(low_rank, _fresh(layer.module)), {"sparse": request}


_BUILDERS = {"parallel": _parallel, "factorised": _factorised, "doped": _doped}


def _pair(
    layer: nn.Module, between: int, *, first_bias: bool, second_bias: bool
) -> tuple[nn.Module, nn.Module]:
    """Two layers from the inputs of one to its outputs; the second has a kernel of 1x1."""
    if isinstance(layer, nn.Linear):
        first = _like(layer, layer.in_features, between, first_bias)
        return first, _like(layer, between, layer.out_features, second_bias)
    first = _like(layer, layer.in_channels, between, first_bias)
    second = nn.Conv2d(between, layer.out_channels, 1, bias=second_bias, **_place(layer))
    return first, second


def _like(layer: nn.Module, inputs: int, outputs: int, bias: bool) -> nn.Module:
    """A fresh layer of the same kind with other widths."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, bias=bias, **_place(layer))
    return nn.Conv2d(
        inputs,
        outputs,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=bias,
        padding_mode=layer.padding_mode,
        **_place(layer),
    )


def _place(layer: nn.Module) -> dict[str, Any]:
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}


def _fresh(layer: nn.Module) -> nn.Module:
    made: nn.Module = copy.deepcopy(layer)
    made.reset_parameters()
    return made


def _width(wanted: float, asked: SparsitySpec) -> int:
    """A width near the wanted one: a multiple of the rows of a block."""
    assert asked.pattern is not None
    side = asked.pattern.block[0]
    return max(side, round(wanted / side) * side)


def _request(asked: SparsitySpec, density: float) -> str:
    return f"{asked.pattern}:{1 - density:.9f}" if density < 1 else "dense"


def _widen(module: nn.Module, asked: SparsitySpec) -> Replaced:
    """The ``wide`` chain: every width between two layers grows by √(1 / (1 − s))."""
    fresh = copy.deepcopy(module)
    chain = list(_chain("", fresh))
    layers = [name for name, each in chain if isinstance(each, (nn.Linear, nn.Conv2d))]
    if len(layers) < 2:
        raise ModelError(
            "a chain of fewer than two layers has no width to grow",
            fix="use parallel, factorised or doped",
        )
    factor = math.sqrt(1 / (1 - asked.sparsity))
    overrides: dict[str, str] = {}
    old = new = 1  # width of the value between the layers, as it was and as it is
    for name, each in chain:
        made = each
        if isinstance(each, (nn.Linear, nn.Conv2d)):
            inputs, outputs = _widths(each)
            wider = outputs if name == layers[-1] else _width(outputs * factor, asked)
            made = _like(each, inputs // old * new, wider, each.bias is not None)
            old, new = outputs, wider
            density = each.weight.numel() / made.weight.numel()
            overrides |= {name: _request(asked, density)} if density < 1 else {}
        elif next(each.parameters(), None) is not None:  # a norm, by what _chain lets through
            made = _norm_like(each, each.num_features // old * new)
        parent, _, last = name.rpartition(".")
        setattr(fresh.get_submodule(parent), last, made)
    return Replaced(fresh, overrides)


def _chain(name: str, module: nn.Module) -> Any:
    """Name and module of each link, in the order of the calls."""
    if isinstance(module, nn.Sequential):
        for key, child in module.named_children():
            yield from _chain(f"{name}.{key}".removeprefix("."), child)
        return
    layer = isinstance(module, (nn.Linear, nn.Conv2d)) and getattr(module, "groups", 1) == 1
    norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    if not name or not (layer or norm or next(module.parameters(), None) is None):
        raise ModelError(
            f"{name or 'the module'!r}, a {type(module).__name__}, is no link of a chain",
            fix="wide takes an nn.Sequential of linears, convolutions and BatchNorms; "
            "use parallel, factorised or doped",
        )
    yield name, module


def _widths(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _norm_like(norm: nn.Module, width: int) -> nn.Module:
    made: nn.Module = type(norm)(
        width, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, **_place(norm)
    )
    return made
