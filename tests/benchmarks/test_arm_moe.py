"""Mixtures of experts as a loop over experts, and the table of their instructions."""

from __future__ import annotations

import numpy as np

from benchmarks import arm_moe, moe
from sparsecc.backends.onnxruntime.run import open_session

TOKENS = 3


def test_the_loop_computes_all_experts_that_are_chosen() -> None:
    weights = moe.weights_of(8, 32, 48)
    x = np.random.default_rng(1).standard_normal((TOKENS, 32), np.float32)
    assert len(np.unique(np.argsort(x @ weights["router"])[:, -moe.CHOSEN :])) < 8
    got, wanted = (
        open_session(form(weights, TOKENS)).run(None, {"x": x})[0]
        for form in (moe.loop_model, moe.dense_model)
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_the_table_has_ratios() -> None:
    peer = dict.fromkeys(arm_moe.FORMS, 5_000_000)
    text = arm_moe.section([arm_moe.Row(16, 2_000_000, peer)], 8, "256 → 1024", "1.2")
    assert "| 16 | 2.0 M | 5.0 M (2.50×) | 5.0 M (2.50×) |" in text
