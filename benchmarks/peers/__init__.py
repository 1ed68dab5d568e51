"""Other runtimes to measure beside ours: the table, their environments and their adapters."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setting:
    """One way to run a peer.

    Attributes:
        name: What tables call it.
        zeros: Patterns it is tried on; empty for every model.
        options: Whatever the adapter reads.
    """

    name: str
    zeros: tuple[str, ...]
    options: dict[str, Any]

    def suits(self, pattern: str) -> bool:
        """Whether the setting is tried on a model with zeros such as "4x1:0.8"."""
        return not self.zeros or pattern.partition(":")[0] in self.zeros


@dataclass(frozen=True)
class Peer:
    """A row of `peers.toml`.

    Attributes:
        name: Key of the row and name of its adapter in `runtimes/`.
        title: What tables and plots call it.
        packages: Requirements of its environment, pinned.
        settings: The ways to run it.
        python: Newest Python its packages take, such as "3.11"; "" when any does.
        opset: Opset of the model it gets.
        converts: Whether its adapter makes a file of its own from the ONNX file.
        optional: Measured only when asked for by name.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    settings: tuple[Setting, ...]
    python: str = ""
    opset: int = 17
    converts: bool = False
    optional: bool = False

    @property
    def version(self) -> str:
        """Version of its first package."""
        return self.packages[0].partition("==")[2]

    @property
    def runtime(self) -> Path:
        """Its adapter."""
        return HERE / "runtimes" / f"{self.name}.py"


def load(path: Path = HERE / "peers.toml") -> dict[str, Peer]:
    """The table of peers by name."""
    table = tomllib.loads(path.read_text())
    return {name: _peer(name, row) for name, row in table.items()}


def _peer(name: str, row: dict[str, Any]) -> Peer:
    settings = tuple(
        Setting(options.pop("name"), tuple(options.pop("zeros", ())), options)
        for options in row.pop("settings")
    )
    return Peer(name=name, settings=settings, packages=tuple(row.pop("packages")), **row)


class UnavailableError(Exception):
    """A peer cannot be measured; the message says why in one line."""
