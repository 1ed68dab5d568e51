"""The one table of forms of structured weights."""

from __future__ import annotations

from collections.abc import Mapping

from sparsecc.passes.structured import fourier, kronecker, low_rank, monarch, toeplitz
from sparsecc.passes.structured.base import Form

FORMS: Mapping[str, Form] = {
    "kronecker": kronecker.FORM,
    "rank": low_rank.FORM,
    "circulant": toeplitz.CIRCULANT,
    "toeplitz": toeplitz.TOEPLITZ,
    "hankel": toeplitz.HANKEL,
    "dft": fourier.DFT,
    "dct": fourier.DCT,
    "monarch": monarch.FORM,
}
"""Name, as structures are written → form."""
