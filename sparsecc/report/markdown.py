"""A report as Markdown, for reviews and wikis."""

from __future__ import annotations

import functools
import re

import jinja2

from sparsecc.report import words
from sparsecc.report.document import Document, LayerEntry
from sparsecc.report.facts import agreement, headline

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def escaped(text: object) -> str:
    """A text that stands for itself in Markdown, in a table too: names in a model may hold any."""
    return _SPECIAL.sub(r"\\\1", words.printable(str(text)))


def to_markdown(document: Document) -> str:
    """The report as Markdown."""
    return _template().render(
        document=document, facts=headline(document), agreement=agreement(document)
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsecc.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # HTML's escapes are not Markdown's: see `escaped`, used by `finalize`
        finalize=lambda value: escaped(value) if isinstance(value, str) else value,
    )
    environment.filters |= {
        "ms": words.ms,
        "count": words.count,
        "size": words.size,
        "number": words.number,
        "time": _time,
    }
    return environment.get_template("report.md.jinja")


def _time(layer: LayerEntry) -> str:
    spread = f" ± {layer.spread:.0%}" if layer.spread is not None else ""
    return words.ms(layer.row.est_ms) + spread


__all__ = ["escaped", "to_markdown"]
