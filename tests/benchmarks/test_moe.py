"""Mixtures of experts that are timed: all engines compute the same, and the table has ratios."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import moe as bench
from benchmarks import moe_codes, wasm_moe
from sparsecc import ops, targets

EXPERTS, TOKENS, FEATURES, HIDDEN = 4, 9, 32, 48


@pytest.mark.skipif(
    not targets.runs_here(targets.TARGETS["x86-64"]), reason="this machine does not run x86-64"
)
def test_every_engine_computes_the_op() -> None:
    weights = bench.weights_of(EXPERTS, FEATURES, HIDDEN)
    x = np.random.default_rng(1).standard_normal((TOKENS, FEATURES), np.float32)
    scores = np.float64(x) @ weights["router"]
    chosen = np.argsort(scores, axis=1)[:, -bench.CHOSEN :]
    best = np.exp(np.take_along_axis(scores, chosen, axis=1))
    exact = {name: np.float64(weights[name]) for name in ("up", "down")}
    gates = best / best.sum(axis=1, keepdims=True)
    wanted = ops.mixture("relu", np.float64(x), chosen, gates, exact)
    runs = bench.engines(weights, x, 1)
    assert set(runs) == {bench.OURS, *bench.TITLES}
    for call in runs.values():
        np.testing.assert_allclose(bench.numbers(call()), wanted, rtol=0, atol=1e-5)
    bench.check(runs)


def test_another_answer_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"sparsecc is 1\.0e\+00 away"):
        bench.check({bench.LOOP: lambda: np.ones(3), bench.OURS: lambda: np.zeros(3)})


def test_the_table_has_ratios() -> None:
    taken = {engine: [8.0, 12.0] for engine in bench.TITLES} | {bench.OURS: [4.0, 4.0]}
    row = bench.row_of((8, 128, 512, 2048, 1, 7), taken)
    text = bench.section([row], {"processor": "A chip", "cores": 2})
    assert "| 8 | 512 → 2048 | 128 | 1 | 7 | 4.00 | 2.50 (2.25–2.75) |" in text


def test_a_form_that_does_not_run_has_no_ratio_in_webassembly() -> None:
    ratios = {bench.DENSE: (4.0, 3.5, 4.5)}
    text = wasm_moe.section([wasm_moe.Row(8, 16, "simd128", 5.0, ratios)], "A chip")
    assert "one thread (simd128): 512 → 2048" in text
    assert "| 8 | 16 | 5.00 | 4.00 (3.50–4.50) | – | – |" in text


@pytest.mark.skipif(
    not targets.runs_here(targets.TARGETS["x86-64"]), reason="this machine does not run x86-64"
)
def test_codes_are_those_of_the_peer_and_the_table_says_how_fast() -> None:
    row = moe_codes.measure(EXPERTS, TOKENS, 32, 64, threads=1, turns=2)
    assert set(row.ratios) == {"int8", "int4"}
    text = moe_codes.section([row], {"processor": "A chip", "cores": 2})
    assert f"| 4 | 32 → 64 | 9 | 1 | int8 | {row.ms['int8']:.3f} |" in text
