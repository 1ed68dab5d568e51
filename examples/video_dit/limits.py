"""What a limit on the error buys; `python -m examples.video_dit.limits --help`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import sparsecc
from examples.video_dit.compare import DENSE, PROMPTS, Way, ways
from examples.video_dit.engines import Attention, Setup, compiled, prompt_of
from examples.video_dit.options import (
    FRAMES,
    SIDE,
    STEPS,
    Frames,
    Seed,
    Side,
    Steps,
    Weights,
    mistakes_said,
)
from examples.video_dit.train import WEIGHTS

LIMITS = (0.0005, 0.001, 0.0015, 0.0022, 0.004)
EXAMPLES = """
[bold]Examples[/]

\\b
Five limits, each searched and sampled:
  python -m examples.video_dit.limits
\\b
Two limits, on a prompt of your own:
  python -m examples.video_dit.limits "magenta triangle down" --max-drop 0.001 --max-drop 0.003
"""


def main(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Each a shape, a colour and a direction, in quotes.")
    ] = None,
    frames: Frames = FRAMES,
    side: Side = SIDE,
    steps: Steps = STEPS,
    seed: Seed = 0,
    max_drop: Annotated[
        list[float] | None, typer.Option(min=0.0, help="Relative error of a velocity.")
    ] = None,
    weights: Weights = WEIGHTS,
) -> None:
    """Search blocks of attention within several limits, and sample with each.

    The first search samples what it searches on, and artifacts are kept for the next time.
    """
    setup, asked = Setup(frames, side, steps, weights), prompts or PROMPTS
    with mistakes_said():
        for prompt in asked:
            prompt_of(prompt.split())
        models = {DENSE: compiled(setup, Attention.DENSE)}
        models |= {
            f"{limit:g}": compiled(setup, Attention.STATIC, limit) for limit in max_drop or LIMITS
        }
    drawn = [ways(prompt, models, setup, seed) for prompt in asked]
    Console().print(table_of(f"{len(asked)} videos, seed {seed}, {steps} steps", models, drawn))


def table_of(
    title: str, models: Mapping[str, sparsecc.Compiled], drawn: Sequence[Sequence[Way]]
) -> Table:
    """A row for each limit: the price that was found for it, and what it brought.

    Args:
        title: Of the table.
        models: The dense one and those of limits.
        drawn: For each prompt the way of each model, in order.
    """
    table = Table("limit", title=title)
    for column in ("price ε", "attention", "seconds", f"× {DENSE}", "PSNR, dB", "the worst"):
        table.add_column(column, justify="right")
    by_model = dict(zip(models, zip(*drawn, strict=True), strict=True))
    dense = mean(way.seconds for way in by_model.pop(DENSE))
    for limit, made in by_model.items():
        price = models[limit].plan.attention[0].time_weight
        seconds, found = mean(way.seconds for way in made), [way.psnr for way in made]
        table.add_row(
            limit,
            f"{price:.4f}",
            f"{made[0].kept:.1%}",
            f"{seconds:.1f}",
            f"{dense / seconds:.2f}",
            *(f"{each:.1f}" for each in (mean(found), min(found))),
        )
    return table


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLES)(main)

if __name__ == "__main__":
    app()
