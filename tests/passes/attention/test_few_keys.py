"""Masked attention of few queries and keys in many samples: one step, with any mask."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc.passes.attention.rules import Rule
from tests.passes.attention.masked import (
    HEADS,
    NUMBERS,
    attention,
    check,
    model,
    refusals,
    rule_of,
    tokens,
)

FEW = 36
MASKS = {
    "flags of keys": ("bool[B, 1, 1, 36] flags", "m = Where(flags, s, low)"),
    "flags of hidden keys": ("bool[B, 1, 1, 36] flags", "m = Where(flags, least, s)"),
    "numbers of each sample": ("float[B, 1, 36, 36] pairs", "m = Add(s, pairs)"),
    "two of them": (
        "float[B, 1, 36, 36] pairs, bool[B, 1, 1, 36] flags",
        "a = Add(s, pairs)\n m = Where(flags, a, low)",
    ),
    "a bias of each head besides": (
        "bool[B, 1, 1, 36] flags",
        "a = Add(s, bias)\n m = Where(flags, a, low)",
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_at_run_time_goes_into_the_op(name: str) -> None:
    ports, text = MASKS[name]
    bias = np.random.default_rng(0).standard_normal((HEADS, FEW, FEW)).astype(np.float32)
    arrays = {key: NUMBERS[key] for key in ("low", "least")} | {"bias": bias}
    proto = model(f"{tokens(length=FEW)}, {ports}", attention("", text), arrays)
    node, graph = check(proto, {"B": 1}, {"B": 7})
    assert node.op_type == "BlockSparseAttention_mask"
    assert rule_of(node) == Rule()
    assert isinstance(graph, ir.Model)


def test_masks_of_windows_are_those_of_samples() -> None:
    """As Swin has them: shifted windows differ, and each head has a bias."""
    rng = np.random.default_rng(0)
    arrays = {
        "windows": np.where(rng.random((4, 1, FEW, FEW)) < 0.3, -100, 0).astype(np.float32),
        "bias": rng.standard_normal((1, HEADS, FEW, FEW)).astype(np.float32),
    }
    text = attention("a = Add(s, bias)", "m = Add(a, windows)")
    node, _ = check(model(tokens("4", FEW), text, arrays))
    assert node.op_type == "BlockSparseAttention_mask"


@pytest.mark.parametrize("length", [65, "T"])
def test_more_of_them_stay_as_they_are(length: int | str) -> None:
    ports = f"{tokens(length=length)}, float[B, 1, 1, {length}] flags"
    reason = "a mask that depends on the inputs"
    assert refusals(model(ports, attention("", "m = Add(s, flags)"))) == [reason]
