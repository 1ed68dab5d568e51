"""``sparsecc simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsecc.cli.command import JsonOption, show

NAME = "simulate"
EXAMPLES = """
[bold]Examples[/]

\b
Which way to spread a model over a cluster is the fastest?
  sparsecc simulate model.json cluster.json
\b
How far is the published configuration from that?
  sparsecc simulate model.json cluster.json --set tensor=8,pipeline=16,virtual=2,expert=4
\b
A page with where the time goes:
  sparsecc simulate model.json cluster.json -o steps.html
"""


def command(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Description, JSON or YAML.", show_default=False),
    ],
    cluster: Annotated[
        Path,
        typer.Argument(metavar="CLUSTER", help="Description, JSON or YAML.", show_default=False),
    ],
    given: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="CHOICES",
            help="What is given, such as tensor=8,micro_batch=2; the rest is searched. Of tensor, "
            "pipeline, virtual, expert, micro_batch, recompute, exchange, sharded.",
            show_default=False,
        ),
    ] = "",
    top: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Configurations to show.")
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Page (.html) to write.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the fastest way to train a mixture of experts on a cluster.

    Every configuration of tensor, pipeline, expert and data parallelism that fits in memory is
    simulated from the times of its operators. docs/simulate.md describes the two files.
    """
    from rich.console import Group
    from rich.text import Text

    from sparsecc import simulate
    from sparsecc.progress import bar
    from sparsecc.simulate import draw, page

    what, where = simulate.read_model(model), simulate.read_cluster(cluster)
    with bar(f"simulating {what.name}"):
        found = simulate.search(what, where, _given(given))
    drawing = draw.render(what, where, found, top)
    if out is not None:
        page.write(page.to_html(what, where, found, top), out)
        drawing = Group(drawing, Text.assemble("wrote ", (str(out), "bold green")))
    show(draw.to_json(what, where, found, top), drawing, as_json=as_json)


def _given(text: str) -> dict[str, Any]:
    """What ``--set`` says.

    Raises:
        SimulationError: A name is unknown or a value is none of it.
    """
    import pydantic

    from sparsecc.errors import SimulationError
    from sparsecc.simulate import Choice

    pairs = [part.split("=", 1) for part in text.split(",") if part]
    way_out = "give name=value pairs, such as tensor=8,recompute=full"
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise SimulationError(f"{wrong[0]!r} in --set has no value", fix=way_out)
    names = {name.strip(): value.strip() for name, value in pairs}
    try:
        read = Choice.model_validate_strings(names, strict=False)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise SimulationError(f"{field!r} in --set: {first['msg']}", fix=way_out) from error
    return {name: getattr(read, name) for name in names}


__all__ = ["EXAMPLES", "NAME", "command"]
