"""What a run measured: rows, the machine, and the JSON file that keeps both."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

import sparsecc
from sparsecc.aside import write_aside
from sparsecc.machine import cpuinfo, processor
from sparsecc.manifest import tool_versions

FORMAT = 2
CODE = (".py", ".c", ".h")
Key = tuple[str, str, int, str, str]
T = TypeVar("T")
Turns = Sequence[Sequence[float] | NDArray[np.float64]]
"""Times of an engine, turn by turn."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One engine on one model; every engine of a model took turns with the others in one run.

    Attributes:
        model: Name of the model.
        pattern: Its zeros, such as "4x1:0.8" or "dense".
        engine: Key of the engine.
        ms: Median time of one run.
        least_ms: Least time of one run.
        ratio: Median over rounds of the baseline's time / this one's; ratio_low and ratio_high are
            its quartiles.
        rounds: Turns it took.
        error: Largest difference to ONNX Runtime without graph optimisation, over the largest
            value of the latter.
        unavailable: Why there are no figures; empty when there are.
    """

    model: str
    pattern: str
    engine: str
    ms: float = 0.0
    least_ms: float = 0.0
    ratio: float = 0.0
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    rounds: int = 0
    error: float = 0.0
    unavailable: str = ""


Ratio = tuple[float, float, float]
"""A median, and the quartiles below and above it."""


def over(theirs: ArrayLike, ours: ArrayLike) -> Ratio:
    """How many times as long they took, turn by turn."""
    low, middle, high = np.quantile(np.asarray(theirs) / np.asarray(ours), (0.25, 0.5, 0.75))
    return float(middle), float(low), float(high)


def cell(ratio: Ratio) -> str:
    """A ratio in a table."""
    return "{:.2f} ({:.2f}–{:.2f})".format(*ratio)


def figures(turns: Turns, baseline: Turns) -> dict[str, Any]:
    """The columns of :class:`Timed` that are times, from every run of each turn, ms."""
    medians, compared = (
        np.array([np.median(times) for times in each]) for each in (turns, baseline)
    )
    low, ratio, high = np.percentile(compared / medians, (25, 50, 75)).tolist()
    every = np.concatenate(turns)
    return {
        "ms": float(np.median(every)),
        "least_ms": float(every.min()),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "rounds": len(turns),
    }


@dataclass(frozen=True, kw_only=True)
class Row(Timed):
    """An engine on this machine, in a process of its own.

    Attributes:
        threads: Threads of every engine.
        version: Its version.
        setting: The fastest of its settings on this model.
        cores: How many cores it kept busy, to see that it obeys `threads`.
        peak_rss_mb: Most memory its process had resident.
        prepare_s: Time to compile or convert.
        size_mb: Size of the file or folder it loads.
    """

    threads: int
    version: str
    setting: str = ""
    cores: float = 0.0
    peak_rss_mb: float = 0.0
    prepare_s: float = 0.0
    size_mb: float = 0.0

    @property
    def key(self) -> Key:
        """What tells rows apart."""
        return self.model, self.pattern, self.threads, self.engine, self.version


@dataclass
class Report:
    """Rows of one state of the machine and of the code.

    Attributes:
        machine: What the rows depend on besides their own columns.
        rows: By key.
    """

    machine: dict[str, Any]
    rows: dict[Key, Row] = field(default_factory=dict)

    def add(self, rows: list[Row]) -> None:
        """Takes rows in, in place of older ones of the same key."""
        self.rows |= {row.key: row for row in rows}

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        content = {
            "format": FORMAT,
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows.values()],
        }
        keep(path, content)


def keep(path: Path, content: Any) -> None:
    """Write what was measured as JSON, whole or not at all, into a folder that may not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, json.dumps(content, indent=2) + "\n")


def with_earlier(path: Path, new: Sequence[T], size: Callable[[T], object]) -> list[T]:
    """What is in a file, with new rows, one at least, in the place of those of the same size."""
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kind, here = type(new[0]), {size(row) for row in new}
    return [*(row for row in (kind(**each) for each in old) if size(row) not in here), *new]


def resume(path: Path, machine: dict[str, Any]) -> Report:
    """The report of a file, or an empty one where it is of another machine, code or format."""
    report = Report(machine)
    if path.exists():
        content = json.loads(path.read_text())
        if (content.get("format"), content.get("machine")) == (FORMAT, machine):
            report.add([Row(**row) for row in content["rows"]])
    return report


def machine() -> dict[str, Any]:
    """The processor, the system, the versions, and a digest of the compiler's sources."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "extensions": extensions(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": tool_versions(),
        "code": code_digest(Path(sparsecc.__file__).parent),
    }


def extensions() -> list[str]:
    """The vector extensions that matter for these figures."""
    known = ("avx2", "fma", "avx512", "amx", "asimd", "sve", "i8mm")
    flags = (cpuinfo("flags") or cpuinfo("Features")).split()
    return sorted(flag for flag in flags if flag.startswith(known))


def code_digest(root: Path) -> str:
    """Hash of all sources below `root`, links followed."""
    digest = hashlib.sha256()
    for folder, below, files in os.walk(root, followlinks=True):
        below.sort()
        for name in sorted(files):
            if name.endswith(CODE):
                path = Path(folder, name)
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows as pages and pictures show them: models as they came, zeros by kind, then by share."""
    given = list(rows)
    models = list(dict.fromkeys(row.model for row in given))

    def place(row: Row) -> tuple[int, str, float]:
        kind, _, share = row.pattern.rpartition(":")
        return models.index(row.model), kind, float(share) if kind else 0.0

    return sorted(given, key=place)
