"""Compiles the trained PP-OCRv4 recogniser and reads held-out lines with it: `make demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import sparsecc
from examples.ocr.lines import make_lines
from examples.ocr.recognizer import (
    INPUT,
    Pictures,
    Score,
    alphabet,
    package_model,
    read,
    score,
)
from sparsecc.bench import compare

CALIBRATION_LINES, TEST_LINES = 128, 400
BENCH_SECONDS = 8.0
OUT = Path("demo-out")
# The first layers and the transformer at the end hold little of the work and most of the accuracy;
# the late convolutions (Conv.20 to Conv.32) hold most of the work.
CAREFUL = {
    "p2o.Conv.?": "dense",
    "p2o.Conv.1?": "4x1:0.3",
    "p2o.Conv.3[3-7]": "dense",
    "p2o.MatMul.*": "dense",
}


@dataclass(frozen=True)
class Setting:
    """What one row of the table was compiled with."""

    title: str
    folder: str
    sparsity: str
    overrides: dict[str, str] = field(default_factory=dict)


SETTINGS = (
    Setting("30 %", "uniform-30", "4x1:0.3"),
    Setting("50 % late", "careful-50", "4x1:0.5", CAREFUL),
    Setting("50 %", "uniform-50", "4x1:0.5"),
)


def main() -> None:
    """Compiles, scores and times each setting; saves the artifacts under `demo-out/`."""
    console = Console()
    with console.status("rendering text lines"):
        calibration, _ = make_lines(CALIBRATION_LINES, seed=1, split="calibration")
        # The settings above were chosen on the lines of seed 2; these are fresh ones.
        pictures, labels = make_lines(TEST_LINES, seed=3, split="test")
    model = package_model()
    characters = alphabet(model)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    dense = read(lambda batch: session.run(None, {INPUT: batch})[0], pictures, characters)

    rows = []
    with Progress(console=console) as progress:
        for setting in SETTINGS:
            compiled = compile_setting(setting, model, calibration, progress)
            folder = compiled.save(OUT / setting.folder)
            result = score(read(compiled, pictures, characters), labels, dense)
            timed = compare(folder, model, inputs={INPUT: pictures[:1]}, seconds=BENCH_SECONDS)
            ratio = f"{timed.ratio:.2f} ({timed.ratio_low:.2f}–{timed.ratio_high:.2f})"
            times = f"{timed.ours_ms:.1f} ({timed.baseline_ms:.1f})"
            rows.append((setting.title, times, ratio, compiled.size_bytes, result))

    table = Table(title=f"PP-OCRv4 recogniser, 4x1 zeros, {TEST_LINES} lines, one thread")
    for column in ("zeros", "ms (dense)", "ratio", "MB", "lines", "chars", "agree"):
        table.add_column(column, justify="left" if column == "zeros" else "right")
    reference = score(dense, labels, dense)
    rows.insert(0, ("dense", "", "1", model.stat().st_size, reference))
    for title, times, ratio, size, result in rows:
        table.add_row(title, times, ratio, f"{size / 1e6:.1f}", *_cells(result))
    console.print(table)
    console.print(
        "ratio: to ONNX Runtime dense in the same minute, with quartiles\n"
        "lines, chars: read right; agree: lines read as the dense model reads them\n"
        f"artifacts: {OUT}/"
    )


def compile_setting(
    setting: Setting, model: Path, calibration: Pictures, progress: Progress
) -> sparsecc.Compiled:
    """Compiles `model` at one setting, with a bar of its own in `progress`."""
    task = progress.add_task(setting.title, total=1.0)
    return sparsecc.compile(
        model,
        target="native",
        sparsity=setting.sparsity,
        overrides=setting.overrides,
        calibration={INPUT: calibration},
        progress=lambda _, share: progress.update(task, completed=share),
    )


def _cells(result: Score) -> tuple[str, str, str]:
    return f"{result.lines:.1%}", f"{result.characters:.2%}", f"{result.agreement:.1%}"


if __name__ == "__main__":
    main()
