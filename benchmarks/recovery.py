"""What recovery wins back on trained models: `python -m benchmarks.recovery --help`.

Each row prunes a model as its case says, with and without a recovery on unlabelled inputs, judges
both on data that neither calibration nor recovery saw, and times them against ONNX Runtime on the
dense model.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import page
from benchmarks.plans import Bench, Row, measures
from benchmarks.rows import keep
from benchmarks.trained import SMALL, SUBJECTS, Subject, taught

NAME = "recovery"
ROWS = ("without", "recovered")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, how it is pruned, and how long it may recover.

    Attributes:
        subject: Of ``benchmarks.trained``.
        effort: Of the recovery.
        sparsity: Asked of every layer, or None for a search.
        budget: Of the search.
        everywhere: Whether first and last layers are pruned too.
        aim: What is to be reached, in words.
    """

    subject: str
    effort: str
    sparsity: str | None
    budget: float | None
    everywhere: bool
    aim: str


CASES: Mapping[str, Case] = {
    "encoder": Case("encoder", "6min", "4x1:0.5", None, True, "cosine ≥ .95"),
    "recogniser": Case("recogniser", "4min", "4x1:0.5", None, False, "loses ≤ 1 %"),
    "mnist": Case("mnist", "1min", "4x1:0.8", None, False, "loses ≤ .5 %"),
    "digits": Case("digits", "30s", "unstructured:0.9", None, False, "keeps ≥ 99 %"),
    "encoder-plan": Case("encoder", "6min", None, 0.03, False, "≥ 1.8×, cosine ≥ .97"),
    "encoder-heads": Case("encoder", "1min", "heads:0.25", None, False, "–"),
    "encoder-channels": Case("encoder", "1min", "channels:0.3", None, False, "–"),
    "recogniser-plan": Case("recogniser", "4min", None, 0.01, False, "≥ 1.5×, loses ≤ 1 %"),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A case with what it came to.

    Attributes:
        case: Its name.
        without: Pruned alone; None where a search decides by what a recovery makes of it.
        recovered: Pruned and recovered.
        steps: That the recovery took.
        dense: Quality of the dense model.
    """

    case: str
    without: Row | None
    recovered: Row
    steps: int
    dense: float


def measure(name: str, seconds: float) -> Result:
    """Carry out one case."""
    case = CASES[name]
    subject = (SUBJECTS | SMALL)[case.subject]()
    settings = {**subject.settings, "calibration": taught(case.subject, subject)}
    if case.everywhere and case.sparsity is not None:
        settings["overrides"] = {"encoder*": case.sparsity}
    with tempfile.TemporaryDirectory() as scratch:
        row = _Rows(subject, Path(scratch), seconds)
        without = None if case.budget else row(settings, case)
        recovered = row(settings | {"recover": case.effort}, case)
    return Result(name, without, recovered, row.steps, row.dense)


class _Rows:
    """Rows of one subject; remembers how many steps the last recovery took."""

    def __init__(self, subject: Subject, folder: Path, seconds: float) -> None:
        self._bench = Bench(subject, folder, seconds)
        self.dense = self._bench.best
        self.steps = 0

    def __call__(self, settings: Mapping[str, Any], case: Case) -> Row:
        self._bench.subject = dataclasses.replace(self._bench.subject, settings=settings)
        row, made = self._bench.compiled_row(case.budget, case.sparsity)
        self.steps = made.plan.recovery.steps if made.plan.recovery else 0
        print(row, made.plan.recovery, flush=True)
        return row


def table(results: Sequence[Result]) -> str:
    """Markdown: a line per case."""
    lines = [
        "| model | zeros | recovery | kept without | **kept** | dense | aim | speed-up | whole "
        "compile, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        case, row = CASES[each.case], each.recovered
        asked = case.sparsity or f"searched, drop ≤ {case.budget:.0%}"
        where = " everywhere" if case.everywhere else ""
        without = "–" if each.without is None else f"{each.dense - each.without.drop:.2%}"
        ratio = f"{row.ratio[0]:.2f} ({row.ratio[1]:.2f}–{row.ratio[2]:.2f})"
        lines.append(
            f"| {row.model} | {asked}{where} | {case.effort}, {each.steps} steps | {without} "
            f"| **{each.dense - row.drop:.2%}** | {each.dense:.2%} | {case.aim} | {ratio} "
            f"| {row.seconds:.0f} |"
        )
    said = measures(each.recovered for each in results)
    return "\n".join([*lines, "", f"What is kept is — {said}; on fresh data."])


def _read(path: Path) -> dict[str, Result]:
    known = json.loads(path.read_text()) if path.exists() else []
    return {each["case"]: Result(**each | {key: _row(each[key]) for key in ROWS}) for each in known}


def _row(found: dict[str, Any] | None) -> Row | None:
    return None if found is None else Row(**{**found, "ratio": tuple(found["ratio"])})


def main(
    cases: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(CASES),
    seconds: Annotated[float, typer.Option(help="How long each artifact is timed.")] = 6.0,
    out: Annotated[Path, typer.Option("-o", help="JSON; other cases in it are kept.")] = Path(
        "out/recovery.json"
    ),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Prunes, recovers, judges and times; prints a table and writes it into a page."""
    for name in cases.split(","):
        results = _read(out) | {name: measure(name, seconds)}
        keep(out, [dataclasses.asdict(each) for each in results.values()])
    found = _read(out)
    section = table([found[name] for name in CASES if name in found])
    Console().print(section, markup=False)
    if page_file is not None:
        page.put(page_file, NAME, section)


if __name__ == "__main__":
    typer.run(main)
