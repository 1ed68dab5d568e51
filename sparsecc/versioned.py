"""Files of versioned JSON that people and other programs may have written: read strictly."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pydantic

from sparsecc.aside import write_aside
from sparsecc.errors import SparseccError

T = TypeVar("T")


@dataclass(frozen=True)
class FileKind(Generic[T]):
    """A kind of file: one JSON object whose ``format`` is its version, beside fields of a type.

    Attributes:
        what: What errors call it.
        format: The version this code reads and writes.
        max_bytes: Larger files are refused unread.
        adapter: Checks the fields, and makes them a value.
        error: What is raised.
        fix: What to do about a file that is none.
        indent: Blanks before nested fields; None for one line, where there are many numbers.
    """

    what: str
    format: int
    max_bytes: int
    adapter: pydantic.TypeAdapter[T]
    error: type[SparseccError]
    fix: str
    indent: int | None = 1

    def text(self, value: T) -> str:
        """The file's text: same value, same bytes."""
        fields = self.adapter.dump_python(value, mode="json")
        content = {"format": self.format, **fields}
        ends = (",", ": " if self.indent else ":")
        return json.dumps(content, indent=self.indent, separators=ends, ensure_ascii=False) + "\n"

    def parse(self, text: str | bytes, name: str) -> T:
        """Read the text of a file; ``name`` stands for it in errors.

        Raises:
            SparseccError: It is too large, not JSON, of another version, or a field is wrong.
        """
        if len(text) > self.max_bytes:
            raise self.error(
                f"{name} is larger than {self.max_bytes >> 10} KiB: it is no {self.what}",
                fix=self.fix,
            )
        try:
            raw: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.error(f"{name} is not JSON: {error}", fix=self.fix) from error
        version = raw.pop("format", None) if isinstance(raw, dict) else None
        if type(version) is not int or version != self.format:
            raise self.error(
                f"{name} has {self.what} format {version!r}, this sparsecc reads {self.format}",
                fix=self.fix,
            )
        try:
            return self.adapter.validate_json(json.dumps(raw))  # where a list may be a tuple
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or self.what
            raise self.error(f"{name}: field {where!r}: {first['msg']}", fix=self.fix) from error

    def load(self, path: str | os.PathLike[str]) -> T:
        """Read a file.

        Raises:
            SparseccError: It is missing, or as in :meth:`parse`.
        """
        name = os.fspath(path)
        try:
            with Path(path).open("rb") as file:
                data = file.read(self.max_bytes + 1)
        except OSError as error:
            raise self.error(
                f"cannot read the {self.what} {name}: {error.strerror}", fix="check the path"
            ) from error
        return self.parse(data, name)

    def save(self, value: T, path: Path) -> None:
        """Write a file aside, then rename it.

        Raises:
            SparseccError: It cannot be written.
        """
        try:
            write_aside(path, self.text(value))
        except OSError as error:
            raise self.error(
                f"cannot write the {self.what} {path}: {error.strerror}",
                fix="choose a folder that can be written and has room",
            ) from error
