"""Measures how soon a WebAssembly model of ours answers, and what a second thread brings.

Every start is a process of Node or a page of Chromium of its own, whose weights are on the disk, or
in the browser's cache from a visit before (`web/start.mjs`).

    npm ci
    python -m benchmarks.web_start --page docs/web.md
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import page, web
from sparsecc.errors import BackendError

NAME = "web-start"
HEAD = (
    *("model", "zeros", "in", "read of weights", "load", "first run", "beyond the read"),
    *("one thread", "two threads", "speed-up"),
)


def measured(job: Path) -> dict[str, Any]:
    """What `start.mjs` found of a job of :func:`web.prepare`, by host.

    Raises:
        BackendError: Node or Chromium failed; with the end of what it said.
    """
    result = job.with_suffix(".start.json")
    command = ["node", web.HERE / "start.mjs", job.resolve(), result.resolve()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=web.LIMIT_S, check=False)
    if done.returncode:
        raise BackendError(
            f"start.mjs failed: {done.stderr.strip()[-1000:]}",
            fix="install Node 20 and Chromium, and run `npm ci`",
        )
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def line(model: str, zeros: str, host: str, found: Mapping[str, Any]) -> list[str]:
    """A line of the table: medians over starts and over runs."""
    read, load, first = (
        np.array([each[name] for each in found["starts"]])
        for name in ("readMs", "loadMs", "firstMs")
    )
    beyond = load + first - read
    alone, shared = (float(np.median(side["times"])) for side in found["threads"])
    starts = [f"{np.median(each):.0f} ms" for each in (read, load, first, beyond)]
    return [
        *(model, zeros, host, *starts),
        *(f"{alone:.2f} ms", f"{shared:.2f} ms", f"{alone / shared:.2f}"),
    ]


def main(
    models: Annotated[str, typer.Option(help="Comma-separated names.")] = "mobilenet_v1",
    patterns: Annotated[str, typer.Option(help="Comma-separated zeros.")] = web.PATTERNS,
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/web"),
) -> None:
    """Measures models × patterns in Node and Chromium; prints a table and puts it into a page."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [list(HEAD), ["---"] * len(HEAD)]
    for model in models.split(","):
        for zeros in patterns.split(","):
            found = measured(web.prepare(model, zeros, folder, 1.0))
            lines += [line(model, zeros, host, each) for host, each in found.items()]
    shown = page.markdown(lines)
    print(shown)
    if page_file is not None:
        page.put(page_file, NAME, shown)


if __name__ == "__main__":
    typer.run(main)
