"""What the user asked for, read and checked before the model is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sparsecc import targets
from sparsecc.errors import PlanError
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.search.allocation import ALLOCATIONS, Allocation
from sparsecc.search.plan import Method
from sparsecc.targets import Target

SCORES: tuple[Method, ...] = ("magnitude", "wanda", "sparsegpt", "alps")

QUANTIZATIONS = ("int8",)

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Request:
    """A request for one compilation; see :func:`sparsecc.compile` for what the fields mean."""

    target: Target
    spec: SparsitySpec
    overrides: Mapping[str, SparsitySpec]
    score: Method
    refit: bool
    allocation: Allocation
    quantize: str | None = None


def read_request(
    target: str,
    sparsity: str,
    overrides: Mapping[str, str] | None,
    score: str,
    refit: bool,
    allocation: str,
    quantize: str | None = None,
) -> Request:
    """Read a request from what the user wrote.

    Raises:
        TargetError: The target is unknown or cannot be built for, or this machine has no kernels.
        PlanError: A sparsity, the score, the allocation or the quantization cannot be read.
    """
    return Request(
        target=targets.buildable(targets.read(target)),
        spec=_spec(sparsity),
        overrides={name: _spec(text) for name, text in (overrides or {}).items()},
        score=_one_of(SCORES, score, "score"),
        refit=refit,
        allocation=_one_of(ALLOCATIONS, allocation, "allocation"),
        quantize=None if quantize is None else _one_of(QUANTIZATIONS, quantize, "quantization"),
    )


def _spec(text: object) -> SparsitySpec:
    return SparsitySpec.parse(str(text))  # the number 0.8 says as much as "0.8"


def _one_of(names: Sequence[Name], wanted: str, what: str) -> Name:
    for name in names:
        if name == wanted:
            return name
    raise PlanError(f"unknown {what} {wanted!r}", fix=f"use one of {', '.join(names)}")
