"""Training a sparse network: masks of a module that a schedule moves, step by step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsecc.errors import ModelError, PlanError
from sparsecc.formats.patterns import DENSE, Pattern, SparsitySpec
from sparsecc.search.allocation import allocate, by_size
from sparsecc.torch.module_layers import (
    Matrix,
    TorchLayer,
    find_layers,
    from_matrix,
    mask_matrix,
    to_matrix,
)
from sparsecc.torch.schedules import Moment, Schedule
from sparsecc.torch.straight_through import Weakened


@dataclasses.dataclass
class _Sparse:
    """A layer that is made sparse: to what, and its mask in torch's layout."""

    layer: TorchLayer
    pattern: Pattern
    sparsity: float
    mask: Tensor


class Sparsifier:
    """Makes a module sparse while it is trained.

    Call :meth:`step` after every ``optimizer.step()`` and before the gradients are cleared, and
    :meth:`finish` when training is over; ``sparsecc.compile(module, sparsity="existing")`` then
    uses the zeros.

    Under a hard schedule (:class:`~sparsecc.torch.Gradual`, :class:`~sparsecc.torch.Dynamic`) every
    step sets dropped weights to zero, and whatever the optimiser remembers of them (momentum, both
    moments of Adam), so that a weight that grows begins afresh. Under a soft one
    (:class:`~sparsecc.torch.Progressive`, :class:`~sparsecc.torch.SrSte`) weights are parametrised
    and live on behind their masks.

    Attributes:
        steps: Steps done.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: str,
        schedule: Schedule,
        *,
        allocation: Literal["uniform", "erk"] = "uniform",
        overrides: Mapping[str, str] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
    ) -> None:
        """Choose the layers and set their first masks.

        Args:
            module: The module, changed in place.
            spec: Such as ``4x1:0.8``, ``unstructured:0.9`` or ``2:4``.
            schedule: When masks change.
            allocation: ``erk`` gives large layers more zeros than small ones, at the same total.
            overrides: Layer-name pattern → request, as for :func:`sparsecc.compile`. Tiny layers,
                first convolutions and the last layer stay dense but for these.
            optimizer: Whose memory of dropped weights is cleared (hard schedules).
            seed: Of what is random in the schedule.

        Raises:
            PlanError: A request cannot be read, or the schedule cannot have its pattern, or no
                layer can be sparse.
            ModelError: A layer is parametrised already, or its weight is not finite.
        """
        self.steps = 0
        self._schedule, self._optimizer, self._seed = schedule, optimizer, seed
        self._finished = False
        self._sparse = _choose(module, spec, overrides or {}, allocation)
        for name, each in self._sparse.items():
            if why := schedule.refuses(each.pattern):
                raise PlanError(f"layer {name!r}: {why}")
        self._update_masks()
        if schedule.soft:
            for each in self._sparse.values():
                soft = Weakened(each.mask, schedule.beta(0), schedule.decay)
                parametrize.register_parametrization(each.layer.module, each.layer.parameter, soft)
        self._apply_masks()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Layer name → mask in the layout of its weight, True where it is kept."""
        return {name: each.mask.clone() for name, each in self._sparse.items()}

    @property
    def density(self) -> float:
        """Share of the weights of its layers that masks keep."""
        masks = [each.mask for each in self._sparse.values()]
        return sum(int(mask.sum()) for mask in masks) / sum(int(mask.numel()) for mask in masks)

    def step(self) -> None:
        """Count a step of training, and move masks where the schedule says so.

        Raises:
            ModelError: There is no gradient to grow by, or a weight is not finite; or it is
                finished.
        """
        if self._finished:
            raise ModelError(
                "a finished Sparsifier does not keep zeros any more",
                fix="apply_masks(module, sparsifier.masks) keeps them while you train on",
            )
        self._apply_masks()  # the optimiser has moved dropped weights, too: none counts as grown
        self.steps += 1
        self._update_masks()
        self._apply_masks()

    def finish(self) -> dict[str, Tensor]:
        """Make the zeros exact and the module plain, with the sparsity that was asked for.

        A schedule that has not come to its end is taken there.

        Returns:
            The masks; ``apply_masks(module, masks)`` holds them in further training.
        """
        if not self._finished:
            self.steps = max(self.steps, self._schedule.end)
            self._update_masks()
            self._apply_masks()
            if self._schedule.soft:
                for each in self._sparse.values():
                    parametrize.remove_parametrizations(
                        each.layer.module, each.layer.parameter, leave_parametrized=True
                    )
            self._finished = True
        return self.masks

    def state_dict(self) -> dict[str, Any]:
        """Steps done and masks: with the states of module and optimiser all that resuming needs."""
        return {"steps": self.steps, "masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; load the module's and the optimiser's first.

        Raises:
            ModelError: It is of other layers or shapes; names the first. Then nothing is changed.
        """
        if missing := {"steps", "masks"} - set(state):
            raise ModelError(
                f"the state has no {sorted(missing)[0]!r}",
                fix="load what state_dict() of a Sparsifier gave",
            )
        steps, masks = state["steps"], state["masks"]
        if set(masks) != set(self._sparse):
            other = sorted(set(masks) ^ set(self._sparse))[0]
            raise ModelError(
                f"the state has other sparse layers: {other!r}",
                fix="make the Sparsifier with the arguments it had",
            )
        for name, each in self._sparse.items():
            if tuple(masks[name].shape) != each.layer.shape:
                raise ModelError(
                    f"the state has {name!r} as {list(masks[name].shape)}, the module as "
                    f"{list(each.layer.shape)}"
                )
        self.steps = int(steps)
        for name, each in self._sparse.items():
            each.mask = masks[name].to(each.layer.stored.device, torch.bool, copy=True)
        self._apply_masks()

    def _update_masks(self) -> None:
        for position, (name, each) in enumerate(self._sparse.items()):
            stored = each.layer.stored
            at = Moment(
                each.pattern,
                each.sparsity,
                functools.partial(_finite, name, "weight", stored),
                mask_matrix(each.mask) if self.steps else None,
                functools.partial(_finite, name, "gradient", stored.grad),
                np.random.default_rng([self._seed, self.steps, position]),
            )
            fresh = self._schedule.mask(self.steps, at)
            if fresh is not None:
                each.mask = from_matrix(fresh, stored)

    def _apply_masks(self) -> None:
        for each in self._sparse.values():  # the module may have moved to another device
            each.mask = each.mask.to(each.layer.stored.device)
        if self._schedule.soft:
            for each in self._sparse.values():
                soft = each.layer.module.parametrizations[each.layer.parameter][0]
                soft.mask, soft.beta = each.mask, self._schedule.beta(self.steps)
            return
        memory = {} if self._optimizer is None else self._optimizer.state
        with torch.no_grad():
            for each in self._sparse.values():
                stored = each.layer.stored
                of_it = memory[stored].values() if stored in memory else ()
                same = [t for t in of_it if isinstance(t, Tensor) and t.shape == stored.shape]
                for tensor in (stored, *same):
                    tensor.masked_fill_(~each.mask, 0)


def _choose(
    module: nn.Module,
    spec: str,
    overrides: Mapping[str, str],
    allocation: Literal["uniform", "erk"],
) -> dict[str, _Sparse]:
    """The layers to make sparse, and how."""
    asked = SparsitySpec.parse(str(spec))
    by_name = {name: SparsitySpec.parse(str(text)) for name, text in overrides.items()}
    if any(each.pattern is None for each in (asked, *by_name.values())):
        raise PlanError(
            "training has no use for 'existing'",
            fix="apply_masks holds zeros that are there; or ask for a pattern such as 4x1:0.8",
        )
    if allocation not in ("uniform", "erk"):
        raise PlanError(f"unknown allocation {allocation!r}", fix="use one of uniform, erk")
    layers = find_layers(module)
    densities = by_size(layers, asked, by_name) if allocation == "erk" else None
    decisions = allocate(
        layers, asked, overrides=by_name, densities=densities, method="magnitude", refit=False
    )
    chosen: dict[str, _Sparse] = {}
    for layer in layers:
        choice = decisions[layer.name].choice
        if choice.pattern == DENSE:
            continue
        if parametrize.is_parametrized(layer.module, layer.parameter):
            raise ModelError(
                f"the weight of {layer.name!r} is parametrised already",
                fix="finish() or remove_masks() first",
            )
        all_kept = torch.ones_like(layer.stored, dtype=torch.bool)
        chosen[layer.name] = _Sparse(layer, choice.pattern, choice.sparsity, all_kept)
    if not chosen:
        why = [f"{name}: {each.reason or 'dense'}" for name, each in decisions.items()]
        raise PlanError(
            "no layer can be sparse: " + "; ".join(why[:5]),
            fix="name layers in overrides, such as {'conv2': '4x1:0.8'}",
        )
    return chosen


def _finite(name: str, what: str, tensor: Tensor | None) -> Matrix:
    """A weight or gradient ``[R, K]``."""
    if tensor is None:
        raise ModelError(
            f"{name!r} has no {what}",
            fix="call step() after backward() and optimizer.step(), before zero_grad()",
        )
    matrix = to_matrix(tensor)
    if not np.isfinite(matrix).all():
        raise ModelError(
            f"the {what} of {name!r} holds NaN or infinity: training has diverged",
            fix="go back to a checkpoint and lower the learning rate",
        )
    return matrix
