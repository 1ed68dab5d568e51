"""The search that is timed computes the op."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import attention_search as bench
from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session

TOKENS = 256


def test_what_is_timed_is_a_search_of_the_op() -> None:
    if not targets.runs_here(targets.TARGETS["x86-64"]):
        pytest.skip("this CPU does not run the kernels of x86-64")
    library = build_library(targets.get("native"))
    session = open_session(bench.search_model(TOKENS, 0.5), library=library)
    given, side = bench.feeds(TOKENS), TOKENS // bench.BLOCK
    (got,) = session.run(None, {name: given[name] for name in ("Q", "K", "index", "step")})
    how = {"full": 0, "searches": [0], "sparsity": 0.5, "words": [0, 0]}
    wanted = ops.next_blocks(
        *(given[name].astype(np.float64) for name in "QK"),
        *(given["index"], 0, [bench.HEADS, side, side, bench.BLOCK, bench.BLOCK]),
        scale=bench.DIM**-0.5,
        **how,
    )
    np.testing.assert_array_equal(got, wanted)
    assert set(bench.measure({"search": session}, given, 2)) == {"search"}
