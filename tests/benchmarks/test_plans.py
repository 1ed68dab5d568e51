"""The benchmark of searched plans: what it measures of a small model, and its tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import plans as bench
from benchmarks.trained import Subject
from tests import small


def samples(seed: int, count: int) -> np.ndarray:
    mixing = np.random.default_rng(5).standard_normal((small.WIDTH, small.WIDTH // 10))
    noise = np.random.default_rng(seed).standard_normal((count, small.WIDTH // 10))
    return (noise @ mixing.T / 5).astype(np.float32)


def cosine(ours: dict[str, np.ndarray], dense: dict[str, np.ndarray]) -> float:
    a, b = ours["y"], dense["y"]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).mean())


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    onnx.save(small.mlp("n"), path)
    return Subject(
        title="MLP",
        measure="mean cosine",
        model=path,
        settings={"calibration": {"x": samples(0, 320)}},
        one={"x": samples(1, 8)},
        test={"x": samples(2, 100)},
        quality=cosine,
    )


def test_a_searched_and_a_uniform_plan_are_judged_on_fresh_data(
    subject: Subject, tmp_path: Path
) -> None:
    made = bench.Bench(subject, tmp_path, seconds=0.2)
    searched, uniform = made.row(0.05, None), made.row(None, "4x1:0.5")
    assert searched.plan == "search"
    assert 0 < searched.drop <= 0.05
    assert searched.found == pytest.approx(searched.drop, abs=0.02)
    assert uniform.budget is None
    assert uniform.drop > 0
    for row in (searched, uniform):
        assert row.ratio[1] <= row.ratio[0] <= row.ratio[2]
        assert row.ms > 0


def rows() -> list[bench.Row]:
    first = bench.Row("A", "m", "4x1:0.2", None, 0.004, None, 1.2, (1.3, 1.2, 1.4), 1.0, 5.0)
    return [
        first,
        dataclasses.replace(first, plan="4x1:0.3", drop=0.009, ratio=(1.5, 1.4, 1.6)),
        dataclasses.replace(first, plan="search", budget=0.005, ratio=(1.7, 1.6, 1.8)),
        dataclasses.replace(first, plan="search", budget=0.001, drop=0.0),
    ]


def test_the_rival_is_the_fastest_uniform_plan_within_the_budget() -> None:
    table = bench.table(rows())
    assert "| A | 0.5% | 0.40% | **1.70** (1.60–1.80) (1.20) | 1.00 | 4x1:0.2: 1.30 | 5 |" in table
    assert "| A | 0.1% | 0.00% | **1.30** (1.20–1.40) (1.20) | 1.00 | none: 1.00 | 5 |" in table
    assert "| A | 4x1:0.3 | 0.90% | 1.50 |" in table


def test_rows_of_other_models_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    other = [dataclasses.replace(row, model="B") for row in rows()]
    path.write_text(json.dumps([dataclasses.asdict(row) for row in rows()[:1] + other]))
    assert bench.merged(path, rows()) == other + rows()
    assert bench.merged(tmp_path / "none.json", rows()) == rows()
