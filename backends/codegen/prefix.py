"""Symbols that objects of a library share get a prefix, so that two such libraries link into one.

In ELF the objects of a library become one whose hidden symbols are local. zig merges no objects of
other formats, so there the names that only a library itself uses become its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

_MACHO, _COFF_X86_64 = b"\xcf\xfa\xed\xfe", b"\x64\x86"
_SYMTAB = 2
_STAB, _TYPE, _EXTERNAL, _IN_SECTION, _HIDDEN = 0xE0, 0x0E, 0x01, 0x0E, 0x10
_WEAK = np.uint16(0x80)
_CLASS_EXTERNAL, _CLASS_WEAK = 2, 105

_MACHO_SYMBOL = np.dtype(
    [("name", "<u4"), ("type", "u1"), ("section", "u1"), ("about", "<u2"), ("value", "<u8")]
)
_COFF_SYMBOL = np.dtype(
    [
        *(("zeros", "<u4"), ("offset", "<u4"), ("value", "<u4"), ("section", "<i2")),
        *(("type", "<u2"), ("storage", "u1"), ("aux", "u1")),
    ]
)


def prefixed(objects: Sequence[bytes], prefix: str, public: Set[str]) -> list[bytes]:
    """Objects whose shared symbols begin with a prefix.

    Args:
        objects: Relocatable Mach-O (64 bits) or COFF (x86-64) files of one library.
        prefix: Goes before every symbol that one of them defines for the others.
        public: Names, as C has them, that stay.

    Raises:
        ValueError: A file is of another format.
    """
    tables = [_Table(content) for content in objects]
    own = {name for table in tables for name in table.defined()} - public
    return [table.renamed({name: prefix + name for name in own}) for table in tables]


def hidden(content: bytes) -> bytes:
    """An object whose functions no shared library exports, as others of it may still use them.

    In COFF the object asks the linker for it in words, ``-export:NAME``, which would be wrong
    once :func:`prefixed` gave it other names. Objects of other formats stay as they are.

    Args:
        content: A relocatable file.
    """
    if content.startswith(_COFF_X86_64):
        return re.sub(rb" -export:\w+", lambda found: b" " * len(found[0]), content)
    return _Table(content).hidden() if content.startswith(_MACHO) else content


def needed(own: Sequence[bytes], rest: Sequence[bytes]) -> list[int]:
    """Which objects of an archive a link takes: those that define what is not defined before.

    Args:
        own: Relocatable files that are linked.
        rest: Those of the archive.

    Raises:
        ValueError: A file is of another format.
    """
    tables = [_Table(content) for content in rest]
    known: set[str] = set()
    wanted: set[str] = set()
    for content in own:
        table = _Table(content)
        known |= table.defined()
        wanted |= table.used()
    chosen: list[int] = []
    while missing := wanted - known:
        taken = [number for number, each in enumerate(tables) if each.defined() & missing]
        if not set(taken) - set(chosen):
            break  # the system has the rest
        for number in sorted(set(taken) - set(chosen)):
            chosen.append(number)
            known |= tables[number].defined()
            wanted |= tables[number].used()
    return sorted(chosen)


class _Table:
    """The symbols of an object."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        if content.startswith(_MACHO):
            self._read_macho()
        elif content.startswith(_COFF_X86_64):
            self._read_coff()
        else:
            raise ValueError("neither a 64-bit Mach-O nor an x86-64 COFF object")

    def _read_macho(self) -> None:
        self.is_macho = True
        at = 32
        for _ in range(self._u32(16)):
            if self._u32(at) == _SYMTAB:
                break
            at += self._u32(at + 4)
        first, count, start, size = (self._u32(at + each) for each in (8, 12, 16, 20))
        self.symbols = np.frombuffer(self.content, _MACHO_SYMBOL, count, first).copy()
        self.first, self.at = first, at
        self.strings = bytes(self.content[start : start + size])
        kind = self.symbols["type"]
        plain = (kind & _STAB) == 0
        self.shared = plain & ((kind & _EXTERNAL) != 0)
        self.here = self.shared & ((kind & _TYPE) == _IN_SECTION)

    def _read_coff(self) -> None:
        self.is_macho = False
        first, count = self._u32(8), self._u32(12)
        self.symbols = np.frombuffer(self.content, _COFF_SYMBOL, count, first).copy()
        self.first, self.at = first, first + count * _COFF_SYMBOL.itemsize
        size = self._u32(self.at)
        if self.at + size != len(self.content):
            raise ValueError("something follows the strings of the object")
        self.strings = bytes(self.content[self.at :])
        is_aux = np.zeros(count, bool)
        at = 0
        while at < count:
            beside = int(self.symbols["aux"][at])
            is_aux[at + 1 : at + 1 + beside] = True
            at += 1 + beside
        storage = self.symbols["storage"]
        weak = storage == _CLASS_WEAK
        self.shared = ~is_aux & ((storage == _CLASS_EXTERNAL) | weak)
        self.here = self.shared & ((self.symbols["section"] > 0) | weak)

    def _u32(self, at: int) -> int:
        return int.from_bytes(self.content[at : at + 4], "little")

    def _name(self, number: int) -> str:
        symbol = self.symbols[number]
        if self.is_macho:
            start = int(symbol["name"])
        elif symbol["zeros"]:
            short = self.symbols[number : number + 1].tobytes()[:8]
            return short.rstrip(b"\0").decode()
        else:
            start = int(symbol["offset"])
        end = self.strings.index(b"\0", start)
        name = self.strings[start:end].decode()
        return name.removeprefix("_") if self.is_macho else name

    def _numbers(self, chosen: NDArray[np.bool_]) -> list[int]:
        return [int(number) for number in np.flatnonzero(chosen)]

    def defined(self) -> set[str]:
        """Names, as C has them, that others can use."""
        return {self._name(number) for number in self._numbers(self.here)}

    def used(self) -> set[str]:
        """Names, as C has them, that others define."""
        return {self._name(number) for number in self._numbers(self.shared & ~self.here)}

    def hidden(self) -> bytes:
        """A Mach-O object with all that it defines for others private to what it is linked into."""
        self.symbols["type"][self.here] |= _HIDDEN
        self.symbols["about"][self.here] &= ~_WEAK  # or the loader looks for others' first
        return self.renamed({})

    def renamed(self, names: dict[str, str]) -> bytes:
        """The object with other names for some of its symbols."""
        strings = bytearray(self.strings)
        for number in self._numbers(self.shared):
            name = names.get(self._name(number))
            if name is None:
                continue
            symbol = self.symbols[number]
            if self.is_macho:
                symbol["name"] = len(strings)
            else:
                symbol["zeros"], symbol["offset"] = 0, len(strings)
            strings += (f"_{name}" if self.is_macho else name).encode() + b"\0"
        content = self.content[:]
        table = self.symbols.tobytes()
        content[self.first : self.first + len(table)] = table
        if not self.is_macho:
            strings[:4] = len(strings).to_bytes(4, "little")
            return bytes(content[: self.at] + strings)
        content += bytes(-len(content) % 8)
        for place, number in ((16, len(content)), (20, len(strings))):
            content[self.at + place : self.at + place + 4] = number.to_bytes(4, "little")
        return bytes(content + strings)
