"""The database of tuning: for each function the schedule that was quickest, as a JSON file.

Files may come from elsewhere: a trace may only hold steps that keep what a function computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from sparsecc.backends.codegen.cache import cache_dir
from sparsecc.errors import TuningError
from sparsecc.machine import processor
from sparsecc.targets import Target
from sparsecc.versioned import FileKind

MOST_ENTRIES = 1000
MOST_BYTES = 64 << 20
MOST_STEPS = 4096
"""Of a trace."""
STEPS = frozenset(
    {
        *("Annotate", "CacheRead", "CacheWrite", "ComputeAt", "ComputeInline"),
        *("DecomposeReduction", "EnterPostproc", "Fuse", "GetChildBlocks", "GetConsumers"),
        *("GetLoops", "GetProducers", "GetSBlock", "Parallel", "RFactor", "Reorder"),
        *("ReverseComputeAt", "ReverseComputeInline", "SampleCategorical"),
        *("SampleComputeLocation", "SamplePerfectTile", "Split", "Unannotate", "Unroll"),
        "Vectorize",
    }
)
"""Steps that change the order of work and nothing else."""
NOTES = ("meta_schedule.", "pragma_auto_unroll_max_step", "pragma_unroll_explicit")
"""What may be written beside a loop: others link in code."""


def _allowed(trace: list[Any]) -> list[Any]:
    why = refused(trace)
    if why:
        raise ValueError(why)
    return trace


def refused(trace: list[Any]) -> str:
    """Why a trace is none that is carried out, or ""."""
    if len(trace) != 2 or not all(isinstance(part, list) for part in trace):
        return "a trace is a list of steps and a list of decisions"
    if len(trace[0]) > MOST_STEPS:
        return f"there are more than {MOST_STEPS} steps"
    for step in trace[0]:
        if not isinstance(step, list) or len(step) != 4 or step[0] not in STEPS:
            what = step[0] if isinstance(step, list) and step else step
            return f"{str(what)[:40]!r} is no step of a schedule"
        note = step[2][0] if isinstance(step[2], list) and step[2] else ""
        if step[0] == "Annotate" and not str(note).startswith(NOTES):
            return f"the note {str(note)[:40]!r} is not allowed"
    return ""


Trace = Annotated[list[Any], pydantic.AfterValidator(_allowed)]


class Entry(BaseModel):
    """What tuning found for one function.

    Attributes:
        key: Hash of the function, of what it was compiled for, and of the sizes it was timed at.
        name: Of the function, for people.
        direct_ms: Time of the direct schedule, one thread, ms.
        tuned_ms: Time of the best other one; None where none could be run.
        tried: How many were tried.
        trace: Of the best, where it is quicker than the direct one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str = Field(max_length=200)
    direct_ms: float = Field(gt=0, allow_inf_nan=False)
    tuned_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    tried: int = Field(ge=0)
    trace: Trace | None = None


class Database(BaseModel):
    """Entries, the latest last.

    Attributes:
        target: Name of the target.
        processor: Where they were timed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    processor: str
    entries: tuple[Entry, ...] = Field(default=(), max_length=MOST_ENTRIES)


FILE = FileKind(
    what="tuning database",
    format=1,
    max_bytes=MOST_BYTES,
    adapter=pydantic.TypeAdapter(Database),
    error=TuningError,
    fix="remove it, and give tune a time such as 5min",
    indent=None,
)


def own_path(target: Target) -> Path:
    """Where the user's database of a target on this processor is kept."""
    digest = hashlib.sha256(processor().encode()).hexdigest()[:8]
    return cache_dir() / "tuning" / f"{target.name}-{digest}.json"


def read(path: Path, target: Target) -> dict[str, Entry]:
    """Entries by key.

    Raises:
        TuningError: The file cannot be read, or is of another target.
    """
    found = FILE.load(path)
    if found.target != target.name:
        raise TuningError(
            f"{path} was tuned for {found.target}, not for {target.name}", fix=FILE.fix
        )
    return {entry.key: entry for entry in found.entries}


def write(path: Path, target: Target, entries: Iterable[Entry]) -> None:
    """Replace a file; the oldest of too many entries fall away.

    Raises:
        TuningError: It cannot be written.
    """
    kept = tuple(entries)[-MOST_ENTRIES:]
    FILE.save(Database(target=target.name, processor=processor(), entries=kept), path)
