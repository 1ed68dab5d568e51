"""A report as one self-contained page: no network, no inline styles, dark and light."""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

import jinja2
from markupsafe import Markup

from sparsecc.report import words
from sparsecc.report.document import Document
from sparsecc.report.facts import agreement, headline
from sparsecc.report.plots import heatmap, pareto, roofline, strips

_STYLE, _SCRIPT = "page.css", "page.js"


def to_html(document: Document) -> str:
    """The page: same report, same text."""
    return render(
        "page.html.jinja",
        document=document,
        facts=headline(document),
        agreement=agreement(document),
        pareto=pareto.pareto(document),
        heatmap=heatmap.heatmap(document),
        roofline=roofline.roofline(document),
        strips=strips.strips(document),
        searched=any(layer.options for layer in document.layers),
    )


def render(template: str, **values: Any) -> str:
    """A page of the templates beside this file, in the style that all of them share."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsecc.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Names in a model are anybody's text; what is markup already is ours.
        finalize=lambda value: words.printable(value) if type(value) is str else value,
    )
    style, script = (_text(environment, name) for name in (_STYLE, _SCRIPT))
    environment.globals |= {
        "style": Markup(style),
        "script": Markup(script),
        "policy": _policy(style, script),
        "plots": {"pareto": pareto, "heatmap": heatmap, "roofline": roofline},
        "tip": strips.tip,
        "kinds": strips.kinds,
    }
    environment.filters |= {
        "ms": words.ms,
        "count": words.count,
        "size": words.size,
        "number": words.number,
        "share": _share,
    }
    return environment


def _text(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy(style: str, script: str) -> str:
    """A content security policy under which nothing runs or loads but what we wrote."""
    allowed = " ".join(
        f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}';"
        for kind, text in (("style", style), ("script", script))
    )
    return f"default-src 'none'; {allowed} base-uri 'none'; form-action 'none'"


def _share(value: float) -> str:
    """A share as a percentage of at most three digits."""
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


__all__ = ["render", "to_html"]
