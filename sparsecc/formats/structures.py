"""Structures of a weight ``W[R, K]`` without zeros, and how they are written.

=====================  ==========================================================================
``rank:r``             a product of ``[R, r]`` and ``[r, K]``
``kronecker:MxN:r``    a sum of r Kronecker products of ``[M, N]`` and ``[R/M, K/N]``
``monarch:KxJ:b``      block-diagonal times permutation times block-diagonal: K blocks at the
                       inputs, J at the outputs, b values between each two; ``monarch:KxJ:b:stride``
                       takes every K-th input into a block, not a run of them
``dft:KxJ``            real parts of a Fourier transform, then its imaginary parts
``dct:KxJ``            a cosine transform (type II)
``toeplitz:B``         equal along diagonals, in blocks of B; ``circulant:B`` also around the edges
``hankel:B``           equal along anti-diagonals
=====================  ==========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparsecc.errors import PlanError

_SIZE = r"([1-9]\d{0,4})"
_GRAMMAR = {
    "rank": re.compile(rf"rank:{_SIZE}"),
    "kronecker": re.compile(rf"kronecker:{_SIZE}x{_SIZE}:{_SIZE}"),
    "monarch": re.compile(rf"monarch:{_SIZE}x{_SIZE}:{_SIZE}(:stride)?"),
    "dft": re.compile(rf"dft:{_SIZE}x{_SIZE}"),
    "dct": re.compile(rf"dct:{_SIZE}x{_SIZE}"),
    "toeplitz": re.compile(rf"toeplitz:{_SIZE}"),
    "circulant": re.compile(rf"circulant:{_SIZE}"),
    "hankel": re.compile(rf"hankel:{_SIZE}"),
}
ACCEPTED = (
    "rank:64, kronecker:8x8:1, monarch:16x16:2, monarch:16x16:2:stride, dft:16x32, dct:16x32, "
    "toeplitz:32, circulant:32 or hankel:32"
)


@dataclass(frozen=True)
class Structure:
    """A form and its sizes.

    Attributes:
        form: Its name, such as ``rank``.
        sizes: The numbers of its text, in order.
        strided: Whether a Monarch's input blocks take every K-th input.
    """

    form: str
    sizes: tuple[int, ...]
    strided: bool = False

    @classmethod
    def parse(cls, text: str) -> Structure:
        """Read a text such as ``rank:64``.

        Raises:
            PlanError: It is none of those above.
        """
        grammar = _GRAMMAR.get(text.partition(":")[0])
        match = grammar.fullmatch(text) if grammar else None
        if match is None:
            raise PlanError(f"{text!r} is no structure of a weight", fix=f"write {ACCEPTED}")
        form = text.partition(":")[0]
        sizes = tuple(int(group) for group in match.groups() if group and group[0] != ":")
        return cls(form, sizes, text.endswith(":stride"))

    def __str__(self) -> str:
        sizes = [str(size) for size in self.sizes]
        numbers = ["x".join(sizes[:2]), *sizes[2:]]
        return ":".join([self.form, *numbers, *(["stride"] if self.strided else [])])
