"""Writes a report to a file, in the form that its suffix names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sparsecc.aside import write_aside
from sparsecc.errors import ReportError
from sparsecc.report.document import Document
from sparsecc.report.markdown import to_markdown
from sparsecc.report.page import to_html
from sparsecc.report.words import finite


def to_json(document: Document) -> str:
    """The report as JSON: same report, same text; numbers that JSON does not have are null."""
    return json.dumps(finite(document.to_json()), indent=1, allow_nan=False) + "\n"


FORMS: dict[str, Callable[[Document], str]] = {
    ".html": to_html,
    ".md": to_markdown,
    ".json": to_json,
}
"""Suffix of a file → what makes its text."""


def check_destination(path: Path) -> None:
    """Check early that a report may be written to `path`.

    Raises:
        ReportError: Its suffix names no form, or it is in a folder that is missing or an artifact.
    """
    from sparsecc.manifest import FILE_NAME

    if path.suffix.lower() not in FORMS:
        raise ReportError(
            f"{path} has none of the suffixes of a report",
            fix=f"name it after its form: {', '.join(FORMS)}",
        )
    if not path.parent.is_dir():
        raise ReportError(f"{path.parent} is not a folder", fix="make it, or choose another")
    if (path.parent / FILE_NAME).exists():
        raise ReportError(
            f"{path.parent} is an artifact: a file written there would break its hashes",
            fix="write the report beside it",
        )


def write(document: Document, path: Path) -> Path:
    """Write a report, completely or not at all; an older one is replaced.

    Raises:
        ReportError: See :func:`check_destination`; or the file cannot be written.
    """
    check_destination(path)
    put(FORMS[path.suffix.lower()](document), path, "report")
    return path


def put(text: str, path: Path, what: str) -> None:
    """Write a file, completely or not at all.

    Raises:
        ReportError: It cannot be written; the message calls it what it is.
    """
    try:
        write_aside(path, text)
    except OSError as error:
        raise ReportError(
            f"cannot write the {what} {path}: {error.strerror or error}",
            fix="choose a folder you may write to, on a disk with room for it",
        ) from error


__all__ = ["FORMS", "check_destination", "put", "to_json", "write"]
