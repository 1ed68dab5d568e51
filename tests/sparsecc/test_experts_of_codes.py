"""Experts rounded on request: what is lost is in the manifest, and what cannot be is an error."""

from __future__ import annotations

import numpy as np
import pytest

import sparsecc
from sparsecc.errors import PlanError
from tests.end_to_end import moe
from tests.end_to_end.backends import BACKENDS

RUNTIME = BACKENDS["onnxruntime"]


@pytest.mark.parametrize(
    ("bits", "least", "most"), [(8, 1e-4, 2e-2), (4, 1e-2, 0.25)], ids=["int8", "int4"]
)
def test_experts_are_rounded(bits: int, least: float, most: float) -> None:
    proto, feed = moe.layer(), moe.feeds(40)
    dense = sparsecc.compile(proto, **RUNTIME).run(feed)["y"]
    compiled = sparsecc.compile(proto, quantize=f"experts-int{bits}", **RUNTIME)
    (row,) = (row for row in compiled.manifest.layers if row["name"] == "moe")
    assert row["kernel"] == f"moe-16x{8 // bits}-int{bits}"
    away = np.abs(compiled.run(feed)["y"] - dense).max() / np.abs(dense).max()
    assert least < away < most
    assert compiled.manifest.numerics["max_rel_error"] < 1e-5


def test_a_model_without_experts_is_an_error() -> None:
    proto = moe.layer(sizes=(20, 10))
    with pytest.raises(PlanError, match="'moe' stays: its experts have a side of 10"):
        sparsecc.compile(proto, quantize="experts-int8", **RUNTIME)
