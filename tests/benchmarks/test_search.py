from __future__ import annotations

import itertools

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import benchmarks.search as bench
from sparsecc.search.baselines import uniform


def test_a_case_is_the_same_every_time_and_knows_its_best_plan():
    case, again = bench.make_case(3), bench.make_case(3)
    assert np.array_equal(case.drops, again.drops)
    assert case.limit == again.limit
    plans = list(itertools.product(range(5), repeat=bench.LAYERS))
    assert len(plans) == 15_625
    fitting = [a for a in plans if case.drop(a) <= case.limit]
    assert 0.05 <= len(fitting) / len(plans) <= 0.61
    best = min(map(case.problem.ms, fitting))
    assert case.best_ms() == pytest.approx(best, rel=1e-12)
    assert case.drop(case.problem.dense) == 0


def test_drops_hold_every_layer_and_every_pair():
    random = np.random.default_rng(0)
    losses = [random.uniform(0, 1, 2) for _ in range(3)]
    pairs = np.triu(random.normal(0, 0.3, (3, 3)), 1)
    drops = bench._true_drops(losses, pairs)
    for plan in itertools.product(range(2), repeat=3):
        lost = np.array([loss[c] for loss, c in zip(losses, plan, strict=True)])
        exact = lost.sum() + np.sqrt(lost) @ pairs @ np.sqrt(lost)
        assert drops[plan] == pytest.approx(max(exact, 0))


@pytest.mark.parametrize("title", bench.METHODS)
def test_no_method_beats_the_best_plan_or_measures_too_much(title, monkeypatch):
    case = bench.make_case(5)
    asked = []
    real = bench.Case.drop
    monkeypatch.setattr(bench.Case, "drop", lambda self, a: asked.append(a) or real(self, a))
    most, method = bench.METHODS[title]
    assert method(case) >= case.best_ms() * (1 - 1e-12)
    assert len(asked) <= most


def test_the_search_is_within_three_per_cent_and_uniform_is_not():
    cases = [bench.make_case(seed) for seed in range(500, 520)]
    best = np.array([case.best_ms() for case in cases])
    ours = np.array([bench.by_search(case, "fast") for case in cases]) / best - 1
    plain = np.array([bench.by_family(lambda c: uniform(c.problem), case) for case in cases]) / best
    assert np.median(ours) <= 0.03
    assert np.quantile(ours, 0.95) <= 0.1
    assert np.median(plain - 1) > 0.1


def test_the_table_goes_into_a_page(tmp_path, monkeypatch):
    fast = {"sparsecc, fast": bench.METHODS["sparsecc, fast"]}
    monkeypatch.setattr(bench, "METHODS", fast)
    page = tmp_path / "page.md"
    page.write_text("<!-- search:begin -->\nold\n<!-- search:end -->\n")
    app = typer.Typer()
    app.command()(bench.main)
    done = CliRunner().invoke(app, ["--models", "2", "--page", str(page)])
    assert done.exit_code == 0, done.output
    assert "old" not in page.read_text()
    assert f"| sparsecc, fast | {bench.FEW} |" in page.read_text()
