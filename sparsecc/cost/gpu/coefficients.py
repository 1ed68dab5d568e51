"""What only a GPU can tell: the time of a launch, and the shares of its bounds that kernels reach.

The defaults are of data sheets, of what is published for kernels of the kind, and of first
principles: ``cases`` says how many measurements stand behind a share, and is 0 for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import pydantic

Family = Literal[
    "library",
    "attention-library",
    "attention",
    "dense",
    "columns",
    "bitmap",
    "2:4",
    "groups",
    "codes4",
    "experts",
]
"""Kernels whose times behave alike: cuBLAS; flash attention or cuDNN; ours over kept tiles; one for
each form of weights, by its name; mixtures."""
FAMILIES: tuple[Family, ...] = get_args(Family)
LAUNCH_MS = 0.004
"""Of one launch from a stream, until the next may start: 3 to 5 µs are published."""
SPREAD = 0.4
"""Relative error of a time, one sigma, where nothing was measured."""

Share = Annotated[float, pydantic.Field(gt=0, le=4, allow_inf_nan=False)]
"""More than one where a bound is too careful."""


class Reached(pydantic.BaseModel):
    """How much of its bounds a family of kernels reaches.

    Attributes:
        matrix: Of the bound by matrix units.
        issue: Of the bound by instructions.
        memory: Of the bound by bandwidths.
        spread: Relative error of a time, one sigma.
        cases: How many times were measured; 0 where all of this is assumed.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    matrix: Share
    issue: Share
    memory: Share
    spread: Annotated[float, pydantic.Field(ge=0, le=10, allow_inf_nan=False)] = SPREAD
    cases: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 0

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order of ``bounds.Bound``."""
        return self.matrix, self.issue, self.memory


class Coefficients(pydantic.BaseModel):
    """Of one GPU.

    Attributes:
        launch_ms: Of one launch, besides what its programs take.
        reached: By family of kernels, all of them.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    launch_ms: Annotated[float, pydantic.Field(gt=0, le=10, allow_inf_nan=False)]
    reached: dict[Family, Reached]

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> Coefficients:
        if set(self.reached) != set(FAMILIES):
            raise ValueError(f"reached has to have {', '.join(FAMILIES)}")
        return self


_MATRIX: Mapping[str, Mapping[Family, float]] = {
    # cuBLAS reaches about 270 of 312 TFLOP/s on an A100 and, held back by its power, 700 of 989 on
    # an H100; flash attention 2 on an A100 200, cuDNN on an H100 600. Kernels of mma.sync reach
    # .62 of an H100's matrix units at most (wgmma alone reaches all). What ours reach of that is
    # not known: about three quarters of it is assumed.
    "sm_80": {
        "library": 0.85,
        "attention-library": 0.65,
        "attention": 0.55,
        "dense": 0.65,
        "columns": 0.6,
        "bitmap": 0.6,
        "2:4": 0.6,
        "groups": 0.5,
        "codes4": 0.5,
        "experts": 0.65,
    },
    "sm_90": {
        "library": 0.7,
        "attention-library": 0.6,
        "attention": 0.45,
        "dense": 0.5,
        "columns": 0.45,
        "bitmap": 0.45,
        "2:4": 0.45,
        "groups": 0.45,
        "codes4": 0.45,
        "experts": 0.5,
    },
}
_ISSUE = 0.7
"""Of instructions where they are all that counts: schedulers wait for operands now and then."""
_OF_LIBRARIES: tuple[Family, ...] = ("library", "attention-library")
_MEMORY: Mapping[Family, float] = {
    # a copy of a large array reaches .9, and a matrix by few tokens comes close to that
    family: 0.9 if family in _OF_LIBRARIES else 0.8
    for family in FAMILIES
}


def assumed(arch: str) -> Coefficients:
    """What is taken for an architecture as long as nothing was measured."""
    return Coefficients(
        launch_ms=LAUNCH_MS,
        reached={
            family: Reached(matrix=share, issue=_ISSUE, memory=_MEMORY[family])
            for family, share in _MATRIX[arch].items()
        },
    )
