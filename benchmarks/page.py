"""The Markdown tables of a report, between markers of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import quantize
from benchmarks.measure import BASELINE, OURS
from benchmarks.rows import Row, keep
from sparsecc.aside import write_aside

NAME = "benchmarks"
PICTURE = "benchmarks.svg"
INT8_NOTE = (
    "`int8:` rows: ONNX Runtime and sparsecc run the same QDQ model, eight-bit weights and "
    "activations; beside it ONNX Runtime on the float32 model of the same weights."
)
TOO_BUSY = 0.3  # cores above the number of threads: a helper thread may wake now and then


def splice(page: str, name: str, content: str) -> str:
    """Replaces what stands between the markers `name` of a Markdown page.

    Raises:
        ValueError: The page lacks the markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise ValueError(f"the page needs the markers {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def put(file: Path, name: str, content: str) -> None:
    """Splice content into a page that is a file."""
    write_aside(file, splice(file.read_text(encoding="utf-8"), name, content))


def publish(
    name: str, text: str, content: Mapping[str, Any], output: Path, page: Path | None
) -> None:
    """Keep what was measured as JSON, print its text, and put it into a page if there is one.

    Args:
        name: Of the markers.
        text: Markdown.
        content: As JSON has it.
        output: The JSON file.
        page: The Markdown file.
    """
    keep(output, content)
    print(text)
    if page is not None:
        put(page, name, text)


def section(rows: Sequence[Row], titles: Mapping[str, str], machine: Mapping[str, object]) -> str:
    """Machine, one table per number of threads, and why figures are missing.

    Args:
        rows: All rows.
        titles: Title of each engine by key, in the order of the columns.
        machine: As in the report.
    """
    shown = {key: title for key, title in titles.items() if any(r.engine == key for r in rows)}
    counts = sorted({row.threads for row in rows})
    tables = [f"{_threads(count)}:\n\n{table(rows, count, shown)}" for count in counts]
    versions = {r.engine: r.version for r in rows}
    engines = ", ".join(f"{title} {versions[key]}" for key, title in shown.items())
    where = f"{machine['processor']}, {machine['cores']} cores. {engines}."
    note = INT8_NOTE if any(quantize.is_int8(row.pattern) for row in rows) else ""
    picture = f"![Speed-up over ONNX Runtime]({PICTURE})"
    parts = [where, picture, *tables, note, missing(rows, shown)]
    return "\n\n".join(part for part in parts if part)


def table(rows: Sequence[Row], threads: int, titles: Mapping[str, str]) -> str:
    """One line per model and zeros: times of two, then everyone's speed-up over the baseline.

    The fastest is bold; a dash stands where an engine gave no figures.
    """
    others = [key for key in titles if key not in {BASELINE, OURS}]
    head = ["model", "zeros", f"{titles.get(BASELINE, BASELINE)} ms", f"{OURS} ms", OURS]
    lines = [[*head, "quartiles", *(titles[key] for key in others)]]
    lines.append(["---"] * len(lines[0]))
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row.threads == threads:
            cells.setdefault((row.model, row.pattern), {})[row.engine] = row
    for (model, pattern), engines in cells.items():
        ours, baseline = engines.get(OURS), engines.get(BASELINE)
        best = max((row.ratio for row in engines.values()), default=0.0)
        speed = [_ratio(engines.get(key), best) for key in (OURS, *others)]
        spread = f"{ours.ratio_low:.2f}–{ours.ratio_high:.2f}" if _has(ours) and ours else "–"
        lines.append([model, pattern, _ms(baseline), _ms(ours), speed[0], spread, *speed[1:]])
    return markdown(lines)


def missing(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Every reason for which figures are missing or must be doubted, and where."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        label = f"{row.model} {row.pattern} {_threads(row.threads)}"
        if row.unavailable:
            where.setdefault((row.engine, f"not available: {row.unavailable}"), []).append(label)
        elif row.cores > row.threads + TOO_BUSY:
            where.setdefault((row.engine, "kept more cores busy than it should"), []).append(label)
    return "\n".join(
        f"- {titles.get(engine, engine)} {what} ({_listed(labels)})"
        for (engine, what), labels in where.items()
    )


def _listed(labels: list[str], most: int = 3) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _has(row: Row | None) -> bool:
    return row is not None and not row.unavailable


def _ms(row: Row | None) -> str:
    return f"{row.ms:.2f}" if row is not None and not row.unavailable else "–"


def _ratio(row: Row | None, best: float) -> str:
    if row is None or row.unavailable:
        return "–"
    return f"**{row.ratio:.2f}**" if row.ratio == best else f"{row.ratio:.2f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table of Markdown; the second one is what divides off the first."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
