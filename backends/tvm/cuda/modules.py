"""CUDA modules of a TVM library, as bytes that TVM's runtime reads.

On a machine without a GPU TVM has no CUDA runtime, and keeps the source of its kernels for a
compiler that is found where they run. Here machine code takes its place, and kernels of other
compilers stand beside it. The layout is that of TVM 0.27: ``CUDAModuleNode::SaveToBytes`` in
``src/runtime/cuda/cuda_module.cc``, inside of ``ffi``'s library of modules.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

KIND = "cuda"
CUBIN = b"cubin"
_HOST = "_lib"
"""Stands for the host's own functions, which have no bytes."""
_CODES = {"int": 0, "float": 2, "handle": 3}
"""Of types of parameters, as DLPack has them."""


@dataclass(frozen=True)
class Entry:
    """A kernel as a launch finds it.

    Attributes:
        symbol: Name in the code, and of the function that launches it.
        types: Of its parameters: ``handle``, ``int32``, ``int64`` or ``float32``.
        tags: What follows the parameters in a call: sizes of the grid and of a block.
    """

    symbol: str
    types: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass
class Imports:
    """Modules that a library holds: a tree by position, the first one its root.

    Attributes:
        children: Of each module, the positions of those it imports.
        modules: Kind and bytes of each; the host's functions have none.
    """

    children: list[list[int]]
    modules: list[tuple[str, bytes]]


def with_machine_code(
    packed: bytes, compiled: Callable[[str], bytes], kernels: Sequence[tuple[Entry, bytes]]
) -> bytes:
    """The modules of a library with machine code in the place of CUDA source, and more kernels.

    Args:
        packed: What TVM packs.
        compiled: From source to a cubin.
        kernels: What launches call besides, and the cubin that each is in.
    """
    imports = read(packed)
    for at, (kind, content) in enumerate(imports.modules):
        if kind == KIND:
            functions, source = _source(content)
            imports.modules[at] = kind, _text(CUBIN) + functions + _text(compiled(source))
    host = next(at for at, (kind, _) in enumerate(imports.modules) if kind == _HOST)
    for entry, code in kernels:
        imports.children[host].append(len(imports.modules))
        imports.children.append([])
        imports.modules.append(
            (KIND, _text(CUBIN) + _functions({entry.symbol: entry}) + _text(code))
        )
    return written(imports)


def read(packed: bytes) -> Imports:
    """The modules in what TVM packs."""
    stream = _Reader(packed)
    stream.number()  # of bytes
    starts, children = stream.numbers(), stream.numbers()
    tree = [children[a:b] for a, b in itertools.pairwise(starts)]
    modules = []
    for _ in tree:
        kind = stream.text().decode()
        modules.append((kind, b"" if kind == _HOST else stream.text()))
    return Imports(tree, modules)


def written(imports: Imports) -> bytes:
    """The other way."""
    starts = [0]
    for each in imports.children:
        starts.append(starts[-1] + len(each))
    content = _numbers(starts) + _numbers([at for each in imports.children for at in each])
    content += b"".join(
        _text(kind.encode()) + (b"" if kind == _HOST else _text(held))
        for kind, held in imports.modules
    )
    return struct.pack("<Q", len(content)) + content


def symbols_of(packed: bytes) -> dict[str, bytes]:
    """Every kernel in a library's modules, and the cubin that it is in."""
    found: dict[str, bytes] = {}
    for kind, content in read(packed).modules:
        if kind == KIND:
            stream = _Reader(content)
            stream.text()
            names = _skip_functions(stream)
            code = stream.text()
            found |= dict.fromkeys(names, code)
    return found


class _Reader:
    """Numbers of eight bytes, and texts behind their length."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self) -> int:
        (value,) = struct.unpack("<Q", self.take(8))
        return int(value)

    def numbers(self) -> list[int]:
        return [self.number() for _ in range(self.number())]

    def text(self) -> bytes:
        return self.take(self.number())


def _source(content: bytes) -> tuple[bytes, str]:
    """Of a module of CUDA source: its table of functions as it stands, and the source."""
    stream = _Reader(content)
    stream.text()
    start = stream.at
    _skip_functions(stream)
    return content[start : stream.at], stream.text().decode()


def _skip_functions(stream: _Reader) -> list[str]:
    names = []
    for _ in range(stream.number()):
        names.append(stream.text().decode())
        stream.text()
        stream.take(4 * stream.number())
        for _ in range(stream.number()):
            stream.text()
        stream.take(4 * stream.number())
    return names


def _functions(entries: Mapping[str, Entry]) -> bytes:
    parts = [struct.pack("<Q", len(entries))]
    for name, entry in entries.items():
        parts += [_text(name.encode()), _text(entry.symbol.encode())]
        parts += [struct.pack("<Q", len(entry.types)), *map(_type, entry.types)]
        parts += [struct.pack("<Q", len(entry.tags))]
        parts += [_text(tag.encode()) for tag in entry.tags]
        parts += [struct.pack(f"<Q{len(entry.types)}i", len(entry.types), *[0] * len(entry.types))]
    return b"".join(parts)


def _type(name: str) -> bytes:
    plain = name.rstrip("0123456789")
    return struct.pack("<BBH", _CODES[plain], int(name[len(plain) :] or 64), 1)


def _numbers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<Q{len(values)}Q", len(values), *values)


def _text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content
