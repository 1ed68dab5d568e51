"""The command line: one file per command.

Modules here import typer and the standard library at their top, and what a command works with
inside the command, so that ``sparsecc --help`` is quick.
"""

from sparsecc.cli.app import app, main

__all__ = ["app", "main"]
