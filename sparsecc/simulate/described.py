"""Descriptions that people write as JSON or YAML, read strictly and with bounds."""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml

from sparsecc.errors import SimulationError
from sparsecc.versioned import FileKind

T = TypeVar("T")

Count = Annotated[int, pydantic.Field(ge=1, le=10**7)]
Natural = Annotated[int, pydantic.Field(ge=0, le=10**7)]
Positive = Annotated[float, pydantic.Field(gt=0, le=1e24)]
Seconds = Annotated[float, pydantic.Field(ge=0, le=3600)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Achieved = Annotated[float, pydantic.Field(gt=0, le=1)]
Curve = Annotated[
    tuple[tuple[Positive, Achieved], ...], pydantic.Field(min_length=1, max_length=64)
]
"""Shares of what is ideal by size, from the least size to the greatest."""

_YAML = (".yaml", ".yml")


class Described(pydantic.BaseModel):
    """A part of a description: no unknown fields, no conversions, no infinities."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


def rising(curve: Sequence[tuple[float, ...]]) -> Sequence[tuple[float, ...]]:
    """Check that the sizes of a curve rise.

    Raises:
        ValueError: They do not.
    """
    sizes = [point[0] for point in curve]
    if any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError("sizes have to rise from point to point")
    return curve


def along(curve: Sequence[tuple[float, float]], size: float) -> float:
    """The value of a curve at a size: between two points linear in the logarithm of the size."""
    sizes = [at for at, _ in curve]
    after = bisect_left(sizes, size)
    if after == 0 or after == len(curve):
        return curve[min(after, len(curve) - 1)][1]
    (low, first), (high, last) = curve[after - 1], curve[after]
    return first + (last - first) * log(size / low) / log(high / low)


def file_kind(what: str, type_: type[T]) -> FileKind[T]:
    """The kind of file that holds a description."""
    return FileKind(
        what=what,
        format=1,
        max_bytes=1 << 20,
        adapter=pydantic.TypeAdapter(type_),
        error=SimulationError,
        fix="docs/simulate.md lists the fields; examples/pangu_ultra_moe has files to start from",
    )


def read(kind: FileKind[T], path: Path) -> T:
    """Read a description from a file: YAML if it is called so, else JSON.

    Raises:
        SimulationError: It cannot be read, or something in it is wrong.
    """
    if path.suffix.lower() not in _YAML:
        return kind.load(path)
    try:
        with path.open("rb") as file:
            text = file.read(kind.max_bytes + 1)
    except OSError as error:
        raise SimulationError(
            f"cannot read the {kind.what} {path}: {error.strerror}", fix="check the path"
        ) from error
    if len(text) <= kind.max_bytes:  # larger ones are refused by what reads JSON, unread
        try:
            text = json.dumps(_yaml(text, path, kind.fix)).encode()
        except TypeError as error:
            raise SimulationError(f"{path} is not plain data: {error}", fix=kind.fix) from error
    return kind.parse(text, str(path))


def _yaml(text: bytes, path: Path, fix: str) -> Any:
    try:
        # An alias repeats a part of the file: a few lines of them make gigabytes.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise SimulationError(f"{path} has aliases (*name)", fix="write their values out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or ["no YAML"])[0]
        raise SimulationError(f"{path} is not YAML: {first}", fix=fix) from error


__all__ = [
    "Achieved",
    "Count",
    "Curve",
    "Described",
    "Natural",
    "Positive",
    "Seconds",
    "Share",
    "along",
    "file_kind",
    "read",
    "rising",
]
