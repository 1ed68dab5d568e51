"""Time-MoE that is timed: both forms are one function, and the table says what is over what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import time_moe as bench


@pytest.mark.parametrize("length", [1, 2, 40])
def test_every_expert_times_its_gate_is_the_loop(length: int) -> None:
    torch.manual_seed(0)
    model, series = bench.TimeMoe().eval(), torch.randn(1, length)
    wanted = model(series)
    for layer in model.layers:
        layer.ffn_layer.every = True
    torch.testing.assert_close(model(series), wanted)


def test_another_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        def __init__(self, value: float) -> None:
            self.value = value

        def run(self, names: None, feed: dict[str, Any]) -> list[np.ndarray]:
            return [np.full(3, self.value)]

    runs = dict.fromkeys((bench.LOOP, bench.EVERY, bench.ZEROS), Fixed(1.0))
    monkeypatch.setattr(bench, "open_session", lambda path, threads: Fixed(1.0))
    bench.check(runs, Path(), {})
    with pytest.raises(RuntimeError, match=r"sparsecc is 1\.0e\+00 away"):
        bench.check(runs | {bench.OURS: Fixed(2.0)}, Path(), {})


def test_the_table_says_what_a_ratio_is_over() -> None:
    taken = {bench.EVERY: [9.0, 11.0], bench.LOOP: [6.0, 4.0], bench.OURS: [4.0, 4.0]}
    row = bench.row_of(("base", 512, 1), taken | {bench.ZEROS: [2.0, 2.0]})
    text = bench.section([row], {"processor": "A chip", "cores": 2})
    head, _, line = text.splitlines()[-3:]
    assert "| dense, over all experts | dense, over loop | 80% zeros, over all experts |" in head
    assert "| 512 | 1 | 10.00 | 5.00 | 4.00 | 2.00 | 2.50 (2.38–2.62) | 1.25 (1.12–1.38) |" in line
