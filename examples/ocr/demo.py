"""Compiles the trained PP-OCRv4 recogniser and reads held-out lines with it: `make demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort
from rich.console import Console
from rich.table import Table

import sparsecc
from examples.ocr.lines import make_lines
from examples.ocr.recognizer import INPUT, Score, alphabet, package_model, read, score
from sparsecc.bench import compare

CALIBRATION_LINES, TEST_LINES = 128, 400
BENCH_SECONDS = 8.0
OUT = Path("demo-out")
# 480x240 and three 480x480 convolutions: more than half of the prunable work.
LARGEST = ("p2o.Conv.24", "p2o.Conv.28", "p2o.Conv.30", "p2o.Conv.32")


@dataclass(frozen=True)
class Setting:
    """What one row of the table was compiled with."""

    title: str
    sparsity: str
    overrides: dict[str, str] = field(default_factory=dict)


SETTINGS = (
    Setting("4x1 30 %", "4x1:0.3"),
    Setting("4x1 30 %, largest four layers 50 %", "4x1:0.3", dict.fromkeys(LARGEST, "4x1:0.5")),
    Setting("4x1 50 %", "4x1:0.5"),
)


def main() -> None:
    """Compiles, scores and times each setting; saves the artifacts under `demo-out/`."""
    console = Console()
    model = package_model()
    characters = alphabet(model)
    with console.status("rendering text lines"):
        calibration, _ = make_lines(CALIBRATION_LINES, seed=1, split="calibration")
        pictures, labels = make_lines(TEST_LINES, seed=2, split="test")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    dense = read(lambda batch: session.run(None, {INPUT: batch})[0], pictures, characters)

    table = Table(title=f"PP-OCRv4 recogniser, {TEST_LINES} rendered lines, one thread")
    for column in ("setting", "ms", "ratio", "size MB", "lines", "characters", "agreement"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    baseline_ms: list[float] = []
    rows: list[tuple[str, ...]] = []
    for setting in SETTINGS:
        console.print(f"compiling {setting.title} …")
        compiled = sparsecc.compile(
            model,
            target="native",
            sparsity=setting.sparsity,
            overrides=setting.overrides,
            calibration={INPUT: calibration},
        )
        folder = compiled.save(OUT / setting.sparsity.replace(":", "-"))
        texts = read(compiled, pictures, characters)
        timed = compare(folder, model, inputs={INPUT: pictures[:1]}, seconds=BENCH_SECONDS)
        baseline_ms.append(timed.baseline_ms)
        rows.append(
            (
                setting.title,
                f"{timed.ours_ms:.2f}",
                f"{timed.ratio:.2f} ({timed.ratio_low:.2f}–{timed.ratio_high:.2f})",
                f"{compiled.size_bytes / 1e6:.1f}",
                *_cells(score(texts, labels, dense)),
            )
        )
    mean_ms = sum(baseline_ms) / len(baseline_ms)
    size = f"{model.stat().st_size / 1e6:.1f}"
    table.add_row(
        "ONNX Runtime dense", f"{mean_ms:.2f}", "1", size, *_cells(score(dense, labels, dense))
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"lines, characters: exact against the labels; artifacts: {OUT}/")


def _cells(result: Score) -> tuple[str, str, str]:
    return f"{result.lines:.1%}", f"{result.characters:.2%}", f"{result.agreement:.1%}"


if __name__ == "__main__":
    main()
