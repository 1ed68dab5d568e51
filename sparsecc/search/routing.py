"""What a plan says of mixtures of experts: how tokens spread over them, and which ones stay."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from sparsecc.search.fields import Count, Number, Strict, Text, Unit

MOST_EXPERTS = 1 << 16
Means = Literal["prune", "merge"]
"""Experts are left out, or become one with others."""

_Loss = Annotated[Number, pydantic.Field(ge=0)]
_Place = Annotated[int, pydantic.Field(ge=-1, lt=MOST_EXPERTS)]
_OfEach = pydantic.Field(min_length=1, max_length=MOST_EXPERTS)


class PlanOfFewer(Strict):
    """What a mixture could do with.

    Attributes:
        means: How experts become fewer.
        kept: How many are left.
        refit: Whether what is left was refitted, which then lost less.
        loss: Relative error of its result on held-out data.
        predicted_ms: Estimated time.
        weight_bytes: Of the experts that are left, before anything is pruned or packed.
    """

    means: Means
    kept: Count
    refit: bool
    loss: _Loss
    predicted_ms: _Loss
    weight_bytes: Unit


class PlanMixture(Strict):
    """A mixture of experts.

    Attributes:
        name: Of its node.
        tokens: Of the calibration data.
        chosen: How often each expert was chosen by these.
        gates: The mean size of each one's gate where it was.
        places: Expert → its number among those that are left; several that have the same one are
            merged, and tokens of one without (-1) go to their next best.
        loads: Of those that are left, how often each is chosen.
        refit: Whether their last weights are fitted to what all experts gave on the data.
        loss: Relative error of its result on held-out data.
        predicted_ms: Estimated time of what is left, in milliseconds.
        dense_ms: The same of all experts.
        options: What was weighed.
        reason: Why all experts stay, or "".
    """

    name: Text
    tokens: Unit
    chosen: Annotated[tuple[Annotated[int, pydantic.Field(ge=0, lt=2**63)], ...], _OfEach]
    gates: Annotated[tuple[_Loss, ...], _OfEach]
    places: Annotated[tuple[_Place, ...], _OfEach]
    loads: Annotated[tuple[Annotated[int, pydantic.Field(ge=0, lt=2**63)], ...], _OfEach]
    refit: bool = False
    loss: _Loss = 0.0
    predicted_ms: _Loss
    dense_ms: _Loss
    options: Annotated[tuple[PlanOfFewer, ...], pydantic.Field(max_length=1 << 10)] = ()
    reason: Text = ""

    @pydantic.model_validator(mode="after")
    def _one_place_each(self) -> Self:
        left = [place for place in self.places if place >= 0]
        numbers = list(dict.fromkeys(left))
        if not left or numbers != list(range(len(numbers))):
            raise ValueError("places must number the experts that are left from 0, in their order")
        if not len(self.chosen) == len(self.gates) == len(self.places):
            raise ValueError("chosen, gates and places must be of as many experts")
        if len(self.loads) != len(numbers):
            raise ValueError(f"loads are of {len(self.loads)} experts, and {len(numbers)} are left")
        return self

    @property
    def kept(self) -> int:
        """How many experts are left."""
        return len(self.loads)

    @property
    def is_whole(self) -> bool:
        """Whether all experts stay."""
        return self.kept == len(self.places)

    @property
    def leaves_out(self) -> bool:
        """Whether some experts cannot be chosen any more."""
        return min(self.places) < 0


__all__ = ["Means", "PlanMixture", "PlanOfFewer"]
