"""The schedule: which part of a model runs when, and when tokens go to experts and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from sparsecc.errors import ArtifactError
from sparsecc.versioned import FileKind

FILE_NAME = "schedule.json"

_Name = Annotated[str, pydantic.Field(min_length=1, max_length=1000)]
_Folder = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]{1,40}$")]
_Rank = Annotated[int, pydantic.Field(ge=0, lt=1024)]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Call(_Part):
    """A part of the model that every process runs on its own values.

    Attributes:
        kind: ``call``.
        part: Folder of the part.
        inputs: Values that it reads; they are called so in it as well.
        outputs: Values that it makes.
    """

    kind: Literal["call"] = "call"
    part: _Folder
    inputs: tuple[_Name, ...]
    outputs: tuple[_Name, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """Values that have to be there."""
        return self.inputs

    @property
    def made(self) -> tuple[str, ...]:
        """Values that are there afterwards."""
        return self.outputs


class Exchange(_Part):
    """A mixture of experts: tokens go to their experts (all-to-all), what these make comes back.

    Attributes:
        kind: ``exchange``.
        node: The node of the model.
        part: Folder of the experts, below the folder of each process.
        tokens: The value with tokens ``[T, d]``.
        experts: The value with the experts of each, ``[T, k]``.
        gates: The value with the gates of these.
        output: The value that is made, ``[T, d]``.
        owners: For every expert the process that has it; it has them in their order.
    """

    kind: Literal["exchange"] = "exchange"
    node: _Name
    part: _Folder
    tokens: _Name
    experts: _Name
    gates: _Name
    output: _Name
    owners: Annotated[tuple[_Rank, ...], pydantic.Field(min_length=1, max_length=1 << 16)]

    @property
    def read(self) -> tuple[str, ...]:
        """Values that have to be there."""
        return self.tokens, self.experts, self.gates

    @property
    def made(self) -> tuple[str, ...]:
        """Values that are there afterwards."""
        return (self.output,)


Step = Annotated[Call | Exchange, pydantic.Field(discriminator="kind")]


class Schedule(_Part):
    """What every process does, in order.

    Attributes:
        ranks: How many processes.
        inputs: Values that the caller of a process gives.
        outputs: Values that it gets.
        steps: What is done.
    """

    ranks: Annotated[int, pydantic.Field(ge=1, le=1024)]
    inputs: Annotated[tuple[_Name, ...], pydantic.Field(max_length=1000)]
    outputs: Annotated[tuple[_Name, ...], pydantic.Field(min_length=1, max_length=1000)]
    steps: Annotated[tuple[Step, ...], pydantic.Field(max_length=10_000)]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Schedule:
        known = set(self.inputs)
        for step in self.steps:
            if missing := set(step.read) - known:
                raise ValueError(f"{step.part} reads {min(missing)}, which is not made before")
            known |= set(step.made)
            if isinstance(step, Exchange) and max(step.owners) >= self.ranks:
                raise ValueError(f"{step.part} has experts at {max(step.owners)}, of {self.ranks}")
        if missing := set(self.outputs) - known:
            raise ValueError(f"nothing makes the output {min(missing)}")
        return self


SCHEDULE_FILE = FileKind(
    what="schedule",
    format=1,
    max_bytes=16 << 20,
    adapter=pydantic.TypeAdapter(Schedule),
    error=ArtifactError,
    fix="write it again with sparsecc.spread.spread",
)


def experts_folder(folder: Path, rank: int) -> Path:
    """Where the experts of a process are."""
    return folder / f"rank{rank}"


__all__ = ["FILE_NAME", "SCHEDULE_FILE", "Call", "Exchange", "Schedule", "experts_folder"]
