"""What a searched plan keeps and gains on trained models: `python -m benchmarks.plans --help`.

For every model and budget a plan is searched (`mode="fast"`), compiled, judged on data that neither
the search nor its calibration saw, and timed against ONNX Runtime on the dense model. Beside it
stand uniform plans made with the same method; the best of those that keep to the budget *on the
fresh data* is what the plan has to beat.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.console import Console

import sparsecc
from benchmarks import page
from benchmarks.rows import keep
from benchmarks.trained import SUBJECTS, Subject
from sparsecc.backends.onnxruntime.save import MODEL_NAME, save_model
from sparsecc.bench import compare
from sparsecc.capture import capture
from sparsecc.progress import bar
from sparsecc.searched import SEARCH

NAME = "plans"
BUDGETS = (0.005, 0.01, 0.02)
UNIFORM = {"4x1": (0.2, 0.3, 0.4, 0.5), "unstructured": (0.5, 0.6, 0.7)}
"""Pattern → sparsities of the uniform plans, until one loses more than the largest budget."""
BATCH = 16

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One compiled model.

    Attributes:
        model: Title.
        measure: What its quality is.
        plan: ``search`` or the uniform sparsity.
        budget: Drop that was allowed, or None where the sparsity was given.
        drop: Quality lost on fresh data.
        found: Quality lost on the search's own held-out data, or None.
        estimated: Speed-up that the compiler expected of the layers.
        ratio: Speed-up over ONNX Runtime on the dense model, with its quartiles.
        ms: Time of one run.
        seconds: That compiling took, search included.
        reason: Why the model stayed dense, or "".
    """

    model: str
    measure: str
    plan: str
    budget: float | None
    drop: float
    found: float | None
    estimated: float
    ratio: tuple[float, float, float]
    ms: float
    seconds: float
    reason: str = ""


class Bench:
    """A subject, its dense model as a file and that model's answers.

    Args:
        subject: The model.
        folder: Scratch.
        seconds: How long each artifact is timed.
    """

    def __init__(self, subject: Subject, folder: Path, seconds: float) -> None:
        self.subject = subject
        self.seconds = seconds
        self.folder = folder
        self.baseline = _dense_file(subject, folder)
        session = ort.InferenceSession(self.baseline, providers=["CPUExecutionProvider"])
        self.dense = answers(subject.test, lambda feed: _run(session, feed))
        self.best = subject.quality(self.dense, self.dense)

    def row(self, budget: float | None, sparsity: str | None) -> Row:
        """Compile, judge and time one plan."""
        return self.compiled_row(budget, sparsity)[0]

    def compiled_row(
        self, budget: float | None, sparsity: str | None
    ) -> tuple[Row, sparsecc.Compiled]:
        """The same, with what was compiled."""
        subject = self.subject
        settings = dict(subject.settings)
        if sparsity is not None:  # nothing is searched, so nothing is examined
            settings = {k: v for k, v in settings.items() if k not in ("labels", "quality")}
            settings["sparsity"] = sparsity
        title = f"{subject.title} · {sparsity or f'at most {budget:.1%}'}"
        start = time.perf_counter()
        with bar(title) as progress:
            made = sparsecc.compile(subject.model, max_drop=budget, progress=progress, **settings)
        took = time.perf_counter() - start
        ours = answers(subject.test, made.run)
        artifact = made.save(self.folder / "artifact")
        timed = compare(artifact, self.baseline, inputs=subject.one, seconds=self.seconds)
        kept = made.plan.budget
        row = Row(
            model=subject.title,
            measure=subject.measure,
            plan=sparsity or SEARCH,
            budget=budget,
            drop=self.best - subject.quality(ours, self.dense),
            found=None if kept is None else kept.drop,
            estimated=made.report.speedup,
            ratio=(timed.ratio, timed.ratio_low, timed.ratio_high),
            ms=timed.ours_ms,
            seconds=took,
            reason=made.plan.dense_because,
        )
        return row, made


def rows_of(bench: Bench, budgets: Sequence[float]) -> list[Row]:
    """Uniform plans, until they lose too much, and one searched plan per budget."""
    rows = []
    for pattern, sparsities in UNIFORM.items():
        for sparsity in sparsities:
            rows.append(bench.row(None, f"{pattern}:{sparsity:g}"))
            print(rows[-1], flush=True)
            if rows[-1].drop > max(budgets):
                break
    for budget in budgets:
        rows.append(bench.row(budget, None))
        print(rows[-1], flush=True)
    return rows


def _dense_file(subject: Subject, folder: Path) -> Path:
    """The dense model as an ONNX file: its own, or what capturing it gives."""
    if isinstance(subject.model, Path):
        return subject.model
    settings = subject.settings
    captured = capture(subject.model, settings["example_inputs"], settings.get("dynamic_shapes"))
    save_model(captured, folder)
    return folder / MODEL_NAME


def answers(test: Mapping[str, Array], run: Any) -> dict[str, Array]:
    """Outputs for all samples, batch by batch."""
    count = len(next(iter(test.values())))
    parts = [
        run({name: each[at : at + BATCH] for name, each in test.items()})
        for at in range(0, count, BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run(session: ort.InferenceSession, feed: Mapping[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per model and budget."""
    lines = [
        "| model | budget | lost (fresh data) | speed-up (estimated) | ms "
        "| uniform that keeps to it | search, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.budget is None:
            continue
        uniform = _best_uniform(rows, row.model, row.budget)
        rival = "none: 1.00" if uniform is None else f"{uniform.plan}: {uniform.ratio[0]:.2f}"
        ratio = f"**{row.ratio[0]:.2f}** ({row.ratio[1]:.2f}–{row.ratio[2]:.2f})"
        lines.append(
            f"| {row.model} | {row.budget:.1%} | {row.drop:.2%} | {ratio} ({row.estimated:.2f}) "
            f"| {row.ms:.2f} | {rival} | {row.seconds:.0f} |"
        )
    return "\n".join([*lines, "", f"Quality is — {measures(rows)}.", "", _uniform_table(rows)])


def measures(rows: Iterable[Row]) -> str:
    """What the quality of each model is, in words."""
    said = dict.fromkeys(f"{row.model}: {row.measure}" for row in rows)
    return "; ".join(said)


def _best_uniform(rows: Sequence[Row], model: str, budget: float) -> Row | None:
    kept = [r for r in rows if r.budget is None and r.model == model and r.drop <= budget]
    return max(kept, key=lambda row: row.ratio[0], default=None)


def _uniform_table(rows: Sequence[Row]) -> str:
    lines = ["| model | uniform zeros | lost (fresh data) | speed-up |", "|---|---|---|---|"]
    lines += [
        f"| {r.model} | {r.plan} | {r.drop:.2%} | {r.ratio[0]:.2f} |" for r in rows if not r.budget
    ]
    return "\n".join(lines)


def merged(old: Path, new: Sequence[Row]) -> list[Row]:
    """New rows in place of older ones of the same models."""
    known = json.loads(old.read_text()) if old.exists() else []
    names = {row.model for row in new}
    kept = [Row(**{**each, "ratio": tuple(each["ratio"])}) for each in known]
    return [row for row in kept if row.model not in names] + list(new)


def main(
    models: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(SUBJECTS),
    budgets: Annotated[str, typer.Option(help="Drops, comma-separated.")] = ",".join(
        map(str, BUDGETS)
    ),
    seconds: Annotated[float, typer.Option(help="How long each artifact is timed.")] = 6.0,
    out: Annotated[Path, typer.Option("-o", help="JSON; rows of other models in it are kept.")] = (
        Path("out/plans.json")
    ),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Searches, judges and times; prints a table and writes it into a page."""
    for name in models.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench(SUBJECTS[name](), Path(scratch), seconds)
            rows = merged(out, rows_of(bench, [float(each) for each in budgets.split(",")]))
        keep(out, [dataclasses.asdict(row) for row in rows])
    section = table(rows)
    Console().print(section, markup=False)
    if page_file is not None:
        page.put(page_file, NAME, section)


if __name__ == "__main__":
    typer.run(main)
