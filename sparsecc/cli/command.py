"""What every command shares: where its result goes, how its errors are told."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from sparsecc.errors import SparseccError
from sparsecc.report.words import finite, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERNAL_ERROR = 70
"""Exit code of a bug; ``EX_SOFTWARE`` of BSD's sysexits."""

JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="Print one JSON object on standard output, all else on standard error.",
    ),
]


class Command(TyperCommand):
    """A command whose errors are told in one line, or as JSON where ``--json`` was given."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except SparseccError as error:
            _fail(error, error.exit_code, as_json=ctx.params["as_json"])
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output went away, as `| head` does
            traceback.print_exc()
            _fail(_bug(error), INTERNAL_ERROR, as_json=ctx.params["as_json"])


def show(data: dict[str, Any], drawing: RenderableType, *, as_json: bool) -> None:
    """Print a command's result: `data` as one JSON object, or `drawing` for people."""
    if as_json:
        print(json.dumps(finite(data), allow_nan=False))
        return
    from rich.console import Console

    Console(highlight=False).print(drawing, soft_wrap=True)


def _bug(error: Exception) -> SparseccError:
    return SparseccError(
        f"internal error: {type(error).__name__}: {error}",
        fix="please report it with the command and the lines above",
    )


def _fail(error: SparseccError, code: int, *, as_json: bool) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    parts = str(error).partition("\n  fix: ")
    what, _, way_out = (printable(" ".join(part.split())) for part in parts)
    console.print(Text.assemble(("error: ", "bold red"), (what, "red")))
    if way_out:
        console.print(Text.assemble(("  fix: ", "bold"), way_out))
    if as_json:
        details = {
            "type": type(error).__name__ if code != INTERNAL_ERROR else "InternalError",
            "message": error.message,
            "node": error.node,
            "fix": error.fix,
            "exit_code": code,
        }
        print(json.dumps({"error": details}))
    sys.stdout.flush()
    raise typer.Exit(code)


__all__ = ["INTERNAL_ERROR", "Command", "JsonOption", "show"]
