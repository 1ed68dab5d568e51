"""Hidden symbols of a relocatable ELF object made local, so that two of them link into one program.

Linkers keep hidden symbols global until the last link; of the programs that come with a toolchain
GNU objcopy can do this, which zig does not have.
"""

from __future__ import annotations

import numpy as np

_IDENT = b"\x7fELF\x02\x01"
_SECTION = np.dtype(
    [(name, "<u4") for name in ("name", "type")]
    + [(name, "<u8") for name in ("flags", "addr", "offset", "size")]
    + [(name, "<u4") for name in ("link", "info")]
    + [(name, "<u8") for name in ("align", "entry")]
)
_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
_RELOCATION = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_SYMTAB, _RELA, _GROUP, _SYMTAB_SHNDX, _ADDRSIG = 2, 4, 17, 18, 0x6FFF4C03
_INTERNAL, _HIDDEN = 1, 2


def localize(content: bytes) -> bytes:
    """The same object with its hidden symbols local.

    Args:
        content: A relocatable 64-bit little-endian ELF file, as ``ld.lld -r`` makes it. Symbols are
            ordered anew, local ones first, and relocations follow
            (System V ABI, "Symbol Table" and "Relocation").
    """
    if not content.startswith(_IDENT):
        raise ValueError("not a 64-bit little-endian ELF file")
    data = np.frombuffer(content, np.uint8).copy()
    at, count = int(data[40:48].view("<u8")[0]), int(data[60:62].view("<u2")[0])
    sections = data[at : at + count * _SECTION.itemsize].view(_SECTION)
    number = int(np.flatnonzero(sections["type"] == _SYMTAB)[0])
    table = sections[number]
    symbols = _content(data, table).view(_SYMBOL)
    hidden = np.isin(symbols["other"] & 3, (_INTERNAL, _HIDDEN)) & (symbols["section"] != 0)
    symbols["info"][hidden] &= 0xF
    symbols["other"][hidden] &= 0xFC
    is_global = symbols["info"] >> 4 > 0
    order = np.argsort(is_global, kind="stable")
    place = np.argsort(order).astype(np.uint32)
    symbols[:] = symbols[order]
    table["info"] = np.count_nonzero(~is_global)
    for section in sections[sections["link"] == number]:
        if section["type"] == _RELA:
            relocations = _content(data, section).view(_RELOCATION)
            relocations["symbol"] = place[relocations["symbol"]]
        elif section["type"] == _SYMTAB_SHNDX:
            numbers = _content(data, section).view("<u4")
            numbers[:] = numbers[order]
        elif section["type"] in (_GROUP, _ADDRSIG):
            raise ValueError("groups and address-significance tables refer to symbols by number")
    return data.tobytes()


def _content(data: np.ndarray, section: np.void) -> np.ndarray:
    first = int(section["offset"])
    return data[first : first + int(section["size"])]
