"""The application: its commands, its own options, its entry point."""

from __future__ import annotations

import inspect
import io
import sys
from typing import Annotated

import typer

from sparsecc import __version__
from sparsecc.cli import apply, bench, calibrate, package, plan, simulate, verify
from sparsecc.cli import compile as compile_command
from sparsecc.cli import inspect as inspect_command
from sparsecc.cli import report as report_command
from sparsecc.cli.command import Command

_HELP = """
Make a trained model sparse, faster and still right.

\b
  sparsecc inspect model.onnx
  sparsecc compile model.onnx --calibration data.npz --max-drop 0.01 -o out
  sparsecc bench out --baseline model.onnx
  sparsecc verify out
  sparsecc report out -o report.html
"""
_EXIT_CODES = """
[bold]Exit codes[/]

\b
   0  done                        5  impossible sparsity or plan
   1  not right (verify)          6  unknown target, or not for this machine
   2  command line                7  artifact folder
   3  model                       8  toolchain or runtime
   4  calibration or input data   9  report
  13  simulation               10  calibration table
                                70  a bug of sparsecc
"""

app = typer.Typer(
    name="sparsecc",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparsecc {__version__}")
        raise typer.Exit


@app.callback(help=_HELP, epilog=_EXIT_CODES)
def _sparsecc(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            metavar="",
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Do nothing: the options are all there is before a command."""


def _paragraphs(text: str) -> str:
    """A docstring with each paragraph on one line, for the terminal to wrap."""
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n"))


for _command in (
    compile_command,
    plan,
    apply,
    bench,
    verify,
    inspect_command,
    report_command,
    package,
    calibrate,
    simulate,
):
    app.command(
        _command.NAME,
        cls=Command,
        help=_paragraphs(_command.command.__doc__ or ""),
        epilog=_command.EXAMPLES,
    )(_command.command)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks "×" shows "?"
            stream.reconfigure(errors="replace")
    app()


__all__ = ["app", "main"]
