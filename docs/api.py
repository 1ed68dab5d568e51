"""Writes docs/api.md from the docstrings of the public names: `make docs`."""

from __future__ import annotations

import inspect
from pathlib import Path

import sparsecc

HEAD = """# The Python API

Written from the docstrings by `make docs`; a test keeps it up to date.
"""


def section(name: str) -> str:
    """One public name: its signature and docstring, methods included."""
    value = getattr(sparsecc, name)
    parts = [f"## `sparsecc.{name}{signature(value)}`", fenced(value)]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for method, function in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(function):
                parts += [f"### `{name}.{method}{signature(function)}`", fenced(function)]
    return "\n\n".join(parts)


def signature(value: object) -> str:
    """The signature without annotations, or nothing for a plain class."""
    if not inspect.isfunction(value):
        return ""
    parameters = [
        parameter.replace(
            annotation=inspect.Parameter.empty,
            default=_named(parameter.default),
        )
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(parameters))


class _Name(str):
    """Prints as a name, without quotes."""

    __repr__ = str.__str__


def _named(default: object) -> object:
    """A default that is a function is shown by its name, not by its address."""
    return _Name(default.__name__) if inspect.isfunction(default) else default


def fenced(value: object) -> str:
    """The docstring as it is written."""
    return f"```text\n{inspect.getdoc(value)}\n```"


def text() -> str:
    """The whole page."""
    names = [name for name in sparsecc.__all__ if not name.startswith("_")]
    return HEAD + "\n" + "\n\n".join(section(name) for name in names) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(text(), encoding="utf-8")
