"""The layers of a torch module that can be sparse: their names, and their weights as ``W[R, K]``.

Names are those that capture gives (:mod:`sparsecc.capture.torch`): the path of a module. So a
layer of a plan or an artifact is found in the module that it was compiled from.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecc.errors import ModelError
from sparsecc.passes.weights.layers import STEM_CHANNELS, TINY_SIDE

Matrix = NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True)
class TorchLayer:
    """A parameter that holds the weight of a layer.

    Attributes:
        name: Of the layer, as capture names it: the path of its module.
        module: Whose parameter it is.
        parameter: Its name there: ``weight``, or ``in_proj_weight`` of an attention.
        groups: Of a convolution, else 1.
        keep_dense: Why it is not made sparse unless asked for by name, or "".
    """

    name: str
    module: nn.Module
    parameter: str
    groups: int
    keep_dense: str = ""

    @property
    def weight(self) -> Tensor:
        """The weight as the module computes with it, parametrised or not."""
        weight: Tensor = getattr(self.module, self.parameter)
        return weight

    @property
    def stored(self) -> Tensor:
        """The parameter that is trained: under a parametrisation, the original."""
        return _stored(self.module, self.parameter)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight in torch: ``[O, I]``, or ``[O, I / groups, kh, kw]``."""
        return tuple(self.stored.shape)

    @property
    def rows(self) -> int:
        """R, outputs."""
        return self.shape[0]

    @property
    def cols(self) -> int:
        """K, inputs of one output."""
        return int(np.prod(self.shape[1:]))

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of a convolution's kernel, (1, 1) of a product."""
        return (self.shape[2], self.shape[3]) if len(self.shape) == 4 else (1, 1)


def to_matrix(weight: Tensor) -> Matrix:
    """A weight, or what has its layout, as ``[R, K]``: K in the order (kh, kw, input channel)."""
    matrix: Matrix = _to_rows(weight).detach().float().cpu().numpy()
    return matrix


def mask_matrix(mask: Tensor) -> NDArray[np.bool_]:
    """A mask in torch's layout as ``[R, K]``."""
    kept: NDArray[np.bool_] = _to_rows(mask).cpu().numpy().astype(bool)
    return kept


def _to_rows(weight: Tensor) -> Tensor:
    ordered = weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight
    return ordered.reshape(weight.shape[0], -1)


def from_matrix(matrix: NDArray[Any], like: Tensor) -> Tensor:
    """``[R, K]`` in the layout and on the device of a weight, in its own dtype."""
    rows = torch.from_numpy(np.ascontiguousarray(matrix))
    if like.ndim == 4:
        outputs, channels, height, width = like.shape
        rows = rows.reshape(outputs, height, width, channels).permute(0, 3, 1, 2)
    return rows.contiguous().to(like.device)


def find_layers(module: nn.Module) -> list[TorchLayer]:
    """The layers that can be sparse, in the module's order.

    Left out are depthwise convolutions and weights that several modules share. Layers that do not
    pay, as far as shapes can tell, have a reason to stay dense: tiny ones, first convolutions and
    the last layer in the module's order, which as a rule feeds an output.
    """
    found = []
    owners = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    for name, child in module.named_modules():
        parameter = _parameter_of(child)
        if not parameter or _is_depthwise(child):
            continue
        if owners[id(_stored(child, parameter))] == 1:
            found.append(TorchLayer(name, child, parameter, getattr(child, "groups", 1)))
    last = len(found) - 1
    return [
        dataclasses.replace(layer, keep_dense=_why_dense(layer, last=position == last))
        for position, layer in enumerate(found)
    ]


def _parameter_of(module: nn.Module) -> str:
    """Name of the parameter that is a layer's weight, or ""."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        return "weight"
    packed = isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    return "in_proj_weight" if packed else ""


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.weight.shape[1] == 1


def _stored(module: nn.Module, parameter: str) -> Tensor:
    """The parameter behind a weight: under a parametrisation, the original."""
    if nn.utils.parametrize.is_parametrized(module, parameter):
        original: Tensor = module.parametrizations[parameter].original
        return original
    plain: Tensor = getattr(module, parameter)
    return plain


def _why_dense(layer: TorchLayer, *, last: bool) -> str:
    if min(layer.rows // layer.groups, layer.cols) < TINY_SIDE:
        return f"tiny: fewer than {TINY_SIDE} outputs or inputs"
    if len(layer.shape) == 4 and layer.shape[1] <= STEM_CHANNELS and layer.groups == 1:
        return f"first layer: at most {STEM_CHANNELS} input channels"
    return "last layer" if last else ""


def match_layers(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TorchLayer]:
    """Find layers by the names that a plan or an artifact has for them.

    A module may be wrapped by now (``torch.compile`` and parallel training put ``_orig_mod.`` or
    ``module.`` before every name), or have been wrapped when it was compiled: one path may stand
    before all names of either side. A module that ran several times was captured as ``name``,
    ``name_2``, …: all of them are its layer.

    Args:
        module: The torch module.
        shapes: Layer name → shape of its weight in torch's layout, or ``(R, K)``.

    Returns:
        Layer name → layer, in the order of ``shapes``.

    Raises:
        ModelError: A layer is not in the module, or in several places, or has another shape.
    """
    layers = {layer.name: layer for layer in find_layers(module)}
    ways = [[way(name) for name in shapes] for way in _renamings(shapes, layers)]
    fits = [names for names in ways if all(_lookup(name, layers) for name in names)]
    plain = list(shapes)
    names = fits[0] if len(fits) == 1 and plain not in fits else plain
    return {
        name: _checked(name, _lookup(now, layers), shape)
        for (name, shape), now in zip(shapes.items(), names, strict=True)
    }


def _renamings(names: Iterable[str], layers: Iterable[str]) -> list[Callable[[str], str]]:
    """Ways to turn all names into the module's: as they are, a path less, or a path more."""
    names = list(names)
    less = [prefix for prefix in _prefixes(names[:1]) if all(n.startswith(prefix) for n in names)]
    more = _prefixes(layers)
    return [
        str,
        *(functools.partial(_without, prefix) for prefix in less),
        *(prefix.__add__ for prefix in more),
    ]


def _prefixes(names: Iterable[str]) -> list[str]:
    """Every path that stands before a name, with its dot, once."""
    paths = [name.split(".") for name in names]
    ends = [".".join(path[:count]) + "." for path in paths for count in range(1, len(path))]
    return list(dict.fromkeys(ends))


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


def _lookup(name: str, layers: Mapping[str, TorchLayer]) -> TorchLayer | None:
    return layers.get(name) or layers.get(re.sub(r"_\d+$", "", name))


def _checked(name: str, layer: TorchLayer | None, shape: tuple[int, ...]) -> TorchLayer:
    if layer is None:
        raise ModelError(
            f"the module has no linear or convolution {name!r} of its own",
            fix="use the module that was compiled, without parametrisations when it was",
        )
    if shape not in (layer.shape, (layer.rows, layer.cols)):
        raise ModelError(
            f"the weight of {name!r} is {list(layer.shape)}, not {list(shape)}",
            fix="use the module that was compiled, or another checkpoint of it",
        )
    return layer
