"""The attentions that are timed: the blocks they keep, and that they compute the same."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from benchmarks import attention as bench
from benchmarks import wasm_attention as wasm
from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session

TOKENS = 256
BLOCKS = bench.blocks_of(TOKENS, 0.5)


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (1, bench.HEADS, TOKENS, bench.DIM)
    return {name: rng.standard_normal(shape, np.float32) for name in "QKV"}


def wanted(blocks: np.ndarray, right: int = ops.UNBOUNDED) -> np.ndarray:
    kept = np.flatnonzero(blocks), [*blocks.shape, bench.BLOCK, bench.BLOCK]
    tokens = [array.astype(np.float64) for array in feeds().values()]
    return ops.attend(*tokens, scale=bench.DIM**-0.5, right=right, blocks=kept)


@pytest.mark.parametrize("kept", bench.KEPT)
def test_the_diagonal_is_kept_and_as_many_blocks_as_asked_for(kept: float) -> None:
    blocks = bench.blocks_of(4096, kept)
    assert blocks[:, np.arange(64), np.arange(64)].all()
    assert abs(blocks.mean() - kept) < 1e-3


def test_ours_computes_the_kept_blocks() -> None:
    if not targets.runs_here(targets.TARGETS["x86-64"]):
        pytest.skip("this machine does not run x86-64")
    library = build_library(targets.get("native"))
    session = open_session(bench.sparse_model(BLOCKS), library=library, threads=1)
    run = bench.bound(session, feeds())
    got = bench.numbers(run())
    np.testing.assert_allclose(got, wanted(BLOCKS), rtol=0, atol=1e-5)


def test_onnxruntime_computes_those_below_the_diagonal() -> None:
    flat = {
        name: np.ascontiguousarray(each.swapaxes(1, 2)).reshape(1, TOKENS, -1)
        for name, each in feeds().items()
    }
    cache = {f"past_{name}": np.zeros_like(feeds()["K"]) for name in "kv"}
    session = open_session(bench.ort_sparse_model(BLOCKS), threads=1)
    run = bench.bound(session, flat | cache)
    got = bench.numbers(run())
    rows = got.reshape(1, TOKENS, bench.HEADS, bench.DIM).swapaxes(1, 2)
    np.testing.assert_allclose(rows, wanted(BLOCKS, right=0), rtol=0, atol=1e-5)


def test_the_table_has_ratios_and_the_share_of_the_peak() -> None:
    flops = 4 * 0.5 * bench.HEADS * TOKENS**2 * bench.DIM
    taken = {(0.5, bench.OURS): [2.0, 2.0], (1.0, bench.SDPA): [8.0, 10.0]}
    row = bench._row(TOKENS, 2, 0.5, taken, 250.0)
    assert row.share == pytest.approx(row.kept / 0.5 * flops / 2.0 / 1e6 / 500)
    text = bench.section([row], {"processor": "A chip", "cores": 2})
    assert "| 256 | 2 | 50% | 2.0 |" in text
    assert "| 4.50 (4.25–4.75) | – | – | – |" in text


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("isa", wasm.VARIANTS)
def test_attention_is_timed_in_node(isa: str) -> None:
    for kept in (1.0, 0.5):
        assert wasm.ours_ms(TOKENS, kept, isa, 1) > 0


def test_the_table_of_webassembly_compares_with_dense() -> None:
    rows = [
        wasm.Row("wasm-simd128", TOKENS, kept, ms, 30.0, 10.0) for kept, ms in ((1, 20), (0.5, 10))
    ]
    text = wasm.section(rows, "A chip")
    assert "| 50% | 10 |" in text
    assert "| 2.00× | 3.00× |" in text


def test_the_table_of_webassembly_says_where_the_peer_does_not_run() -> None:
    text = wasm.section([wasm.Row("wasm-simd128", TOKENS, 1.0, 20, 0.0, 10.0)], "A chip")
    assert "MultiHeadAttention does not run" in text
    assert "| 1.00× | – |" in text
