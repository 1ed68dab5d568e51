"""Rows to report on."""

from collections.abc import Callable

import pytest

from sparsecc.report import DENSE_KERNEL, LayerRow


def _row(name: str, **changes) -> LayerRow:
    fields = {
        "op": "Conv",
        "shape": (64, 128),
        "macs": 1_000_000,
        "density": 1.0,
        "pattern": "dense",
        "eligible": False,
        "why": "depthwise",
        "kernel": DENSE_KERNEL,
        "est_ms": 0.5,
        "dense_ms": 0.5,
    }
    return LayerRow(name=name, **(fields | changes))


@pytest.fixture
def row() -> Callable[..., LayerRow]:
    """Makes a dense row, with any fields changed."""
    return _row


@pytest.fixture
def sparse_row() -> Callable[..., LayerRow]:
    """Makes a sparse row, with any fields changed."""

    def make(name: str, **changes) -> LayerRow:
        fields = {
            "op": "SparseConv_relu",
            "density": 0.2,
            "pattern": "4x1",
            "eligible": True,
            "why": "estimated 4.0x faster",
            "kernel": "conv_4x1",
            "est_ms": 0.125,
        }
        return _row(name, **(fields | changes))

    return make
