"""What a plan says of dense feed-forward networks that become mixtures of experts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from sparsecc.search.fields import Count, Number, Share, Strict, Text

Grouping = Literal["weights", "activations"]
"""What neurons of an expert have in common: rows of the weight, or when they are active."""


class PlanOfExperts(Strict):
    """How many experts of a feed-forward network a token could go through.

    Attributes:
        chosen: So many.
        loss: Relative error of the network's output on held-out data.
        predicted_ms: Estimated time with its router.
    """

    chosen: Count
    loss: Annotated[Number, pydantic.Field(ge=0)]
    predicted_ms: Annotated[Number, pydantic.Field(ge=0)]


class PlanExperts(Strict):
    """A feed-forward network whose neurons are split into experts.

    Attributes:
        name: Of the layer that makes its hidden features.
        neurons: How many these are.
        experts: Into how many parts of equal size they are split.
        chosen: How many of these a token goes through; all of them: it stays as it is.
        grouping: What neurons of an expert have in common.
        density: Share of hidden features that are not zero, on calibration data.
        loss: Relative error of its output on held-out data, as chosen.
        predicted_ms: Estimated time as chosen, in milliseconds.
        dense_ms: The same of all neurons without a router.
        options: What was weighed, fewest experts first.
        reason: Why it stays as it is, or "".
    """

    name: Text
    neurons: Count
    experts: Count
    chosen: Count
    grouping: Grouping = "weights"
    density: Share
    loss: Annotated[Number, pydantic.Field(ge=0)] = 0.0
    predicted_ms: Annotated[Number, pydantic.Field(ge=0)]
    dense_ms: Annotated[Number, pydantic.Field(ge=0)]
    options: Annotated[tuple[PlanOfExperts, ...], pydantic.Field(max_length=1 << 10)] = ()
    reason: Text = ""

    @pydantic.model_validator(mode="after")
    def _parts_of_one_size(self) -> Self:
        if self.neurons % self.experts or self.chosen > self.experts:
            raise ValueError(
                f"{self.chosen} of {self.experts} experts of {self.neurons} neurons: experts must "
                "be of one size, and not fewer than are chosen"
            )
        return self

    @property
    def is_dense(self) -> bool:
        """Whether it stays as it is."""
        return self.chosen == self.experts


__all__ = ["Grouping", "PlanExperts", "PlanOfExperts"]
