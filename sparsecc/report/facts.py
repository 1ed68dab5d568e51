"""The few figures a report opens with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsecc.report.document import Document
from sparsecc.report.words import estimated_on, ms, number, size


@dataclass(frozen=True)
class Fact:
    """One figure.

    Attributes:
        title: What it is.
        value: The figure.
        notes: What it is made of, or how it came about.
        good: Whether it is as it should be; None where nothing says so.
    """

    title: str
    value: str
    notes: tuple[str, ...]
    good: bool | None = None


def headline(document: Document) -> list[Fact]:
    """Speed, time, size and quality."""
    return [_speed(document), _time(document), _size(document), _quality(document)]


def agreement(document: Document) -> list[tuple[str, str]]:
    """What was measured of the answers: name → figure."""
    pairs = [*document.quality.items(), *document.numerics.items()]
    return [(name.replace("_", " "), number(value)) for name, value in pairs]


def _speed(document: Document) -> Fact:
    predicted = f"{document.speedup:.2f}×"
    if document.measured is None:
        return Fact(
            "Speed-up",
            predicted,
            (f"predicted, of the layers, {estimated_on(document.target_name)}", "not measured yet"),
        )
    whole = document.measured.whole
    threads = "one thread" if whole.threads == 1 else f"{whole.threads} threads"
    return Fact(
        "Speed-up",
        f"{whole.ratio:.2f}×",
        (
            f"measured, {threads}; quartiles {whole.ratio_low:.2f}–{whole.ratio_high:.2f}",
            f"predicted {predicted}, of the layers",
        ),
        good=whole.ratio >= 1,
    )


def _time(document: Document) -> Fact:
    predicted = f"{ms(document.est_ms)} ms", f"{ms(document.dense_ms)} ms dense"
    if document.measured is None:
        return Fact("Time", predicted[0], (f"predicted; {predicted[1]}", "sum of the layers"))
    whole = document.measured.whole
    return Fact(
        "Time",
        f"{ms(whole.ours_ms)} ms",
        (
            f"measured; {ms(whole.baseline_ms)} ms {_baseline(whole.baseline)}",
            f"predicted {predicted[0]}, of the layers",
        ),
    )


def _baseline(path: str) -> str:
    """What the artifact was measured against, in words."""
    from sparsecc.bench.result import PORTABLE

    return "without its library" if path == PORTABLE else f"for {Path(path).name}"


def _size(document: Document) -> Fact:
    if document.size_bytes is None:
        return Fact("Size", "–", ("nothing was written",))
    notes = ["all files that run it"]
    if document.dense_bytes:
        notes.insert(0, f"{size(document.dense_bytes)} of weights came in")
    return Fact("Size", size(document.size_bytes), tuple(notes))


def _quality(document: Document) -> Fact:
    budget = document.budget
    if budget is not None:
        within = {
            "drop": f"{budget.limit:.2%} drop",
            "ms": f"{ms(budget.limit)} ms",
            "bytes": size(round(budget.limit)),
        }[budget.kind]
        met = "met" if budget.met else "NOT met"
        return Fact(
            "Quality drop",
            f"{budget.drop:.2%}",
            (f"{budget.metric}, held-out data", f"budget: {within}, {met}", *_recovery(document)),
            good=budget.met,
        )
    if not document.quality:
        return Fact("Quality", "–", ("not measured",))
    name, value = ("cosine", document.quality.get("cosine"))
    if value is None:
        name, value = next(iter(document.quality.items()))
    return Fact(
        "Quality",
        number(value),
        (
            f"{name.replace('_', ' ')} to the model that came in",
            "no budget was set",
            *_recovery(document),
        ),
    )


def _recovery(document: Document) -> tuple[str, ...]:
    """What training the weights that stayed came to."""
    return () if document.recovery is None else (str(document.recovery),)


__all__ = ["Fact", "agreement", "headline"]
