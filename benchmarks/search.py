"""How far the plans of searches are from the best one: `python -m benchmarks.search --help`.

Random models of six layers with five choices each, 15,625 plans, all of whose drops are known. A
search sees predicted times and layer losses that were measured with an error of 10 %. What it may
only measure plan by plan is the truth: every layer matters more or less (a factor of e^±.3), and
layers add to each other's harm or take from it. It looks for the fastest plan whose drop is at most
a limit that 5 to 60 % of the plans keep to. Regret is how much slower than the best such plan the
chosen one is. Nothing is timed; the same seeds give the same table.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import page
from sparsecc.search import baselines
from sparsecc.search.bisection import bisect
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.scored import Scores
from sparsecc.search.search import SCORES, Mode, search

NAME = "search"
LAYERS = 6
DENSITIES = np.array([1.0, 0.7, 0.5, 0.3, 0.2])
MEASURING_ERROR = 0.1
IMPORTANCE = 0.3
INTERACTION = 0.3
LIMITS = (0.05, 0.6)
FEW, MANY = SCORES["fast"], SCORES["thorough"]

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A layer, as ERK knows it."""

    name: str
    rows: int
    cols: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    keep_dense: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of which everything is known.

    Attributes:
        problem: What a search sees.
        shapes: Of the layers.
        outliers: Per layer: share of outliers, as OWL takes it; it follows the layer's loss.
        drops: ``[choices] * layers``: true drop of every plan.
        limit: Drop that is allowed.
        seed: Of its random numbers.
    """

    problem: Problem
    shapes: tuple[Shape, ...]
    outliers: tuple[float, ...]
    drops: Floats
    limit: float
    seed: int

    def drop(self, assignment: Assignment) -> float:
        """What measuring a plan end to end gives."""
        return float(self.drops[assignment])

    def best_ms(self) -> float:
        """Time of the fastest plan within the limit, of all there are."""
        times = self.problem.fixed_ms + sum(_along(self.problem.times))
        return float(times[self.drops <= self.limit].min())


def make_case(seed: int) -> Case:
    """A model of which everything is random but its sizes."""
    random = np.random.default_rng(seed)
    choices = len(DENSITIES)
    shapes, times, measured, true, sizes = [], [], [], [], []
    for index in range(LAYERS):
        rows, cols = (int(2 ** random.integers(6, 11)) for _ in range(2))
        dense_ms = random.lognormal(0, 0.7)
        sparse_ms = dense_ms * (DENSITIES[1:] / random.uniform(0.7, 1.1, choices - 1) + 0.05)
        error = (1 - DENSITIES) ** random.uniform(1.5, 3) * random.lognormal(-2, 0.8)
        shapes.append(Shape(f"layer{index}", rows, cols))
        times.append(np.concatenate(([dense_ms], sparse_ms)))
        sizes.append(4 * rows * cols * np.where(DENSITIES < 1, 1.25 * DENSITIES, 1))
        measured.append(error * random.lognormal(0, MEASURING_ERROR, choices))
        true.append(error * random.lognormal(0, IMPORTANCE))
    pairs = np.triu(random.normal(0, INTERACTION, (LAYERS, LAYERS)), 1)
    drops = _true_drops(true, pairs)
    problem = Problem(
        [s.name for s in shapes], times, measured, sizes, 0.2 * sum(t[0] for t in times)
    )
    outliers = tuple(float(loss[-1] * random.lognormal(0, IMPORTANCE)) for loss in true)
    limit = float(np.quantile(drops, random.uniform(*LIMITS)))
    return Case(problem, tuple(shapes), outliers, drops, limit, seed)


def _true_drops(losses: Sequence[Floats], pairs: Floats) -> Floats:
    """Σ loss + Σ pair · √(loss · loss) of every plan, at least 0."""
    alone = _along(losses)
    together = [
        pairs[a, b] * np.sqrt(alone[a] * alone[b])
        for a, b in itertools.combinations(range(len(losses)), 2)
    ]
    drops: Floats = np.maximum(sum(alone) + sum(together), 0.0)
    return drops


def _along(values: Sequence[Floats]) -> list[Floats]:
    """Each layer's values along an axis of its own."""
    return list(np.ix_(*values))


def by_search(case: Case, mode: Mode, problem: Problem | None = None) -> float:
    """Milliseconds of what :func:`sparsecc.search.search` chooses."""
    found = search(
        problem or case.problem, case.drop, kind="drop", limit=case.limit, mode=mode, seed=case.seed
    )
    return found.chosen.ms


def without_losses(case: Case, mode: Mode) -> float:
    """The same with SPDY's (i/(n−1))² in place of measured layer losses."""
    blank = [np.full_like(loss, np.nan) for loss in case.problem.losses]
    return by_search(case, mode, dataclasses.replace(case.problem, losses=blank))


def by_family(family: Callable[[Case], baselines.Family], case: Case) -> float:
    """Milliseconds of the best plan that a bisection over a family measures."""
    plans, scores = family(case), Scores(case.problem, case.drop, FEW)
    bisect(
        plans.plan,
        plans.harmless,
        plans.harmful,
        lambda plan: plan.drop <= case.limit,
        scores,
        FEW,
    )
    return _fastest(scores, case)


def at_random(case: Case, most: int) -> float:
    """Milliseconds of the best of random plans."""
    scores = Scores(case.problem, case.drop, most)
    baselines.random_plans(case.problem, scores, case.limit, case.seed)
    return _fastest(scores, case)


def _fastest(scores: Scores, case: Case) -> float:
    return min(plan.ms for plan in scores.all if plan.drop <= case.limit)


METHODS: dict[str, tuple[int, Callable[[Case], float]]] = {
    "sparsecc, thorough": (MANY, partial(by_search, mode="thorough")),
    "sparsecc, fast": (FEW, partial(by_search, mode="fast")),
    "sparsecc, fast, no layer losses": (FEW, partial(without_losses, mode="fast")),
    "ILP (HiGHS)": (FEW, partial(by_family, lambda c: baselines.integer_program(c.problem))),
    "Lagrangian": (FEW, partial(by_family, lambda c: baselines.lagrangian(c.problem))),
    "OWL": (FEW, partial(by_family, lambda c: baselines.outliers(c.problem, c.outliers))),
    "ERK": (FEW, partial(by_family, lambda c: baselines.erdos_renyi(c.problem, c.shapes))),
    "uniform": (FEW, partial(by_family, lambda c: baselines.uniform(c.problem))),
    "random": (FEW, partial(at_random, most=FEW)),
    "random, as many": (MANY, partial(at_random, most=MANY)),
}
"""Title → most plans measured, and the search."""


def regrets(cases: Iterator[Case]) -> dict[str, Floats]:
    """Regret of every method on every case."""
    found: dict[str, list[float]] = {title: [] for title in METHODS}
    for case in cases:
        best = case.best_ms()
        for title, (_, method) in METHODS.items():
            found[title].append(max(method(case) / best - 1, 0.0))  # not less by a rounding
    return {title: np.array(values) for title, values in found.items()}


def table(found: dict[str, Floats]) -> str:
    """Markdown, one line per method."""
    lines = ["| search | plans measured, at most | regret, median | p95 | best plan found |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for title, values in found.items():
        median, high = 100 * np.median(values), 100 * np.quantile(values, 0.95)
        hits = 100 * np.mean(values < 1e-9)
        lines.append(
            f"| {title} | {METHODS[title][0]} | {median:.1f} % | {high:.1f} % | {hits:.0f} % |"
        )
    return "\n".join(lines)


def main(
    models: Annotated[int, typer.Option(min=1, help="How many random models.")] = 200,
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Prints the regret of searches and writes it into a page."""
    seeds = track(range(models), "models", console=Console(stderr=True), transient=True)
    section = table(regrets(make_case(seed) for seed in seeds))
    print(section)
    if page_file is not None:
        page.put(page_file, NAME, section)


if __name__ == "__main__":
    typer.run(main)
