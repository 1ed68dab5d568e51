"""Masks of a torch module: taken from a plan or an artifact, and held while it is trained.

A mask is a tensor of bools in the layout of the weight in torch, True where a weight is kept.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsecc import ops
from sparsecc.artifact import open_artifact
from sparsecc.compiled import Compiled
from sparsecc.errors import ModelError
from sparsecc.formats.blocks import unpack_blocks
from sparsecc.formats.patterns import DENSE, mask_from_scores
from sparsecc.manifest import MODEL_NAME
from sparsecc.ops import int8
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.inline import InlineRegions
from sparsecc.passes.weights.layers import find_layers as find_graph_layers
from sparsecc.passes.weights.layers import matrix
from sparsecc.search.plan import Plan, PlanLayer
from sparsecc.torch.module_layers import TorchLayer, from_matrix, match_layers, to_matrix

Masks = Mapping[str, Tensor]
Source = Masks | Plan | Compiled | str | os.PathLike[str]


class Mask(nn.Module):  # type: ignore[misc]
    """The parametrisation W ⊙ m: dropped weights are zero, and so are their gradients."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight where it is kept, zero elsewhere; also where it has become NaN or infinite."""
        return torch.where(self.mask, weight, torch.zeros_like(weight))


def masks(source: Compiled | str | os.PathLike[str]) -> dict[str, Tensor]:
    """The masks of a compiled model: where its weights are not zero.

    Args:
        source: A compiled model, or the folder of an artifact.

    Returns:
        Layer name → mask, for the layers that have zeros and are not made of factors. The names are
        module paths where a torch module was compiled; masks have the layout ``[O, I]`` or ``[O, I
        / groups, kh, kw]``.

    Raises:
        ArtifactError: The folder is no artifact, or was altered.
        ModelError: The model is eight-bit, where rounding makes zeros of its own, or its channels
            are in another order than the module's, or fewer, or it is not in the folder.
    """
    path = source.path if isinstance(source, Compiled) else Path(source)
    manifest = open_artifact(path)
    plan = Plan.from_json(json.dumps(manifest.plan), "the manifest's plan")
    _check_whole(plan)
    if not manifest.has_model:
        raise ModelError(
            f"{path} holds a library, not the model",
            fix="compile it for ONNX Runtime by the same plan",
        )
    if plan.permuted:
        raise ModelError(
            "masks of a model whose channels were put into another order",
            fix="compile it without permute, or apply_masks(module, plan)",
        )
    model = ir.load(path / MODEL_NAME)
    if int8.DOMAIN in model.opset_imports:
        raise ModelError(
            "masks of an eight-bit model: rounding makes zeros of its own",
            fix="take them from the float model, compiled by the same plan",
        )
    run([InlineRegions()], model, Context())
    found = {
        n.name or "": unpack_blocks(ops.read_packed(n)) for n in model.graph if ops.is_sparse(n)
    }
    for layer in find_graph_layers(model).layers:
        shape = (layer.rows, *layer.kernel, -1) if layer.op == "Conv" else (layer.rows, layer.cols)
        found[layer.name] = matrix(layer).reshape(shape)
    whole = {layer.name for layer in plan.layers if not layer.choice.structure}
    found = {name: weight for name, weight in found.items() if name in whole}
    nonzero = {name: _channels_second(weight) != 0 for name, weight in found.items()}
    return {name: torch.from_numpy(kept) for name, kept in nonzero.items() if not kept.all()}


def _check_whole(plan: Plan) -> None:
    """That the layers of a plan have the shapes of the module's."""
    if plan.removed:
        raise ModelError(
            f"masks of a model that has lost some of its {plan.removed[0].kind}",
            fix="its layers are smaller than the module's: train it with compile(recover=...), or "
            "take masks from a plan that removes nothing",
        )


def _channels_second(weight: NDArray[Any]) -> NDArray[Any]:
    return weight.transpose(0, 3, 1, 2) if weight.ndim == 4 else weight


def plan_masks(module: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Masks by magnitude, with the pattern and the share of zeros that a plan has for each layer.

    A layer whose zeros the plan says were there already has those of its weight. One that the plan
    makes of factors has no mask, whatever is sparse beside them; a warning names it.

    Raises:
        ModelError: A layer of the plan is not in the module, or has another shape.
    """
    _check_whole(plan)
    wanted = {
        layer.name: layer
        for layer in plan.layers
        if layer.choice.pattern != DENSE and not _is_factored(layer)
    }
    layers = match_layers(module, {n: (each.rows, each.cols) for n, each in wanted.items()})
    found = {}
    for name, layer in layers.items():
        choice, weight = wanted[name].choice, to_matrix(layer.weight)
        kept = (
            mask_from_scores(np.square(weight), choice.pattern, choice.sparsity)
            if choice.changes
            else weight != 0
        )
        found[name] = from_matrix(kept, layer.weight)
    return found


def _is_factored(layer: PlanLayer) -> bool:
    choice = layer.choice
    if choice.structure and choice.pattern != DENSE:
        warnings.warn(
            f"no mask of {layer.name!r}: its {choice.pattern} zeros are of what {choice.structure} "
            "leaves of the weight, not of the weight; train it dense, or the compiled model by "
            "recovery",
            RuntimeWarning,
            stacklevel=3,
        )
    return bool(choice.structure)


def apply_masks(module: nn.Module, source: Source) -> dict[str, Tensor]:
    """Hold masks while a module is trained: each weight becomes the parametrisation W ⊙ m.

    :func:`remove_masks` ends that and leaves exact zeros, which ``sparsity="existing"`` compiles.
    Make the optimiser before or after: the parameters stay the same objects.

    Args:
        module: The module, changed in place.
        source: Layer name → mask, a plan (:func:`plan_masks`), a compiled model or the folder of
            an artifact (:func:`masks`).

    Returns:
        The masks by the module's own names; several runs of one module share what any keeps.

    Raises:
        ModelError: A mask has no layer, or another shape; names it. Then nothing is changed.
    """
    given = _read(module, source)
    layers = match_layers(module, {name: tuple(mask.shape) for name, mask in given.items()})
    merged: dict[str, Tensor] = {}
    for name, layer in layers.items():
        mask = _in_layout(given[name], layer)
        known = merged.get(layer.name)
        merged[layer.name] = mask if known is None else known | mask
    by_name = {layer.name: layer for layer in layers.values()}
    for name in by_name:
        if parametrize.is_parametrized(by_name[name].module, by_name[name].parameter):
            raise ModelError(
                f"the weight of {name!r} is parametrised already",
                fix="remove_masks(module), or finish() what trains it, before other masks",
            )
    for name, mask in merged.items():
        parametrize.register_parametrization(
            by_name[name].module, by_name[name].parameter, Mask(mask)
        )
    return merged


def _read(module: nn.Module, source: Source) -> Masks:
    if isinstance(source, Plan):
        return plan_masks(module, source)
    return source if isinstance(source, Mapping) else masks(source)


def _in_layout(mask: Tensor, layer: TorchLayer) -> Tensor:
    """A mask as the layer's weight lies; ``[R, K]`` is taken, too."""
    weight = layer.weight
    kept = mask.to(weight.device) != 0
    return kept if kept.shape == weight.shape else from_matrix(kept.cpu().numpy(), weight)


def remove_masks(module: nn.Module) -> None:
    """Make plain weights of masked ones again, with their zeros in them."""
    for child in list(module.modules()):
        if not parametrize.is_parametrized(child):
            continue
        for name, chain in list(child.parametrizations.items()):
            if all(isinstance(each, Mask) for each in chain):
                parametrize.remove_parametrizations(child, name, leave_parametrized=True)
