"""What a comparison measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

PORTABLE = "portable"
"""Stands for the artifact without its library, as a baseline."""


@dataclass(frozen=True)
class Round:
    """One turn of each side, right after one another.

    Attributes:
        ours: Times of our runs, ms.
        baseline: Times of the baseline's runs, ms.
    """

    ours: Sequence[float]
    baseline: Sequence[float]

    @property
    def ratio(self) -> float:
        """Speed-up seen in this round."""
        return median(self.baseline) / median(self.ours)


@dataclass(frozen=True)
class BenchResult:
    """Two models measured side by side.

    Attributes:
        ours_ms: Median time of one run of the artifact, ms.
        baseline_ms: Median time of one run of the baseline, ms.
        ratio: Median over rounds of baseline time / artifact time: above 1 is faster.
        ratio_low: Lower quartile of the same.
        ratio_high: Upper quartile of the same.
        threads: Threads of each side.
        peak_rss_mb: Most memory the artifact's process had resident, MB.
        baseline_peak_rss_mb: The same of the baseline's process.
        ours_spread: Distance between the quartiles of the artifact's times / their median.
        baseline_spread: The same of the baseline.
        throughput: Runs of the artifact per second.
        baseline_throughput: Runs of the baseline per second.
        runs: Timed runs of the artifact.
        baseline_runs: Timed runs of the baseline.
        rounds: Turns the two sides took.
        baseline: Path of the baseline, or ``portable`` for the artifact without its library.
        max_rel_difference: Largest difference between outputs of the same name and shape,
            relative to the largest value of the baseline's; None when no output is comparable.
    """

    ours_ms: float
    baseline_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    threads: int
    peak_rss_mb: float
    baseline_peak_rss_mb: float
    ours_spread: float
    baseline_spread: float
    throughput: float
    baseline_throughput: float
    runs: int
    baseline_runs: int
    rounds: int
    baseline: str
    max_rel_difference: float | None

    def to_json(self) -> dict[str, object]:
        """Plain data, in the order of the fields."""
        return asdict(self)


def summarise(
    rounds: Sequence[Round],
    *,
    threads: int,
    peak_rss_mb: tuple[float, float],
    baseline: str,
    max_rel_difference: float | None,
) -> BenchResult:
    """Medians, quartiles and rates of `rounds`; memory is (artifact's, baseline's), MB."""
    ours = np.concatenate([each.ours for each in rounds])
    theirs = np.concatenate([each.baseline for each in rounds])
    low, ratio, high = np.percentile([each.ratio for each in rounds], (25, 50, 75)).tolist()
    ours_ms, baseline_ms = float(np.median(ours)), float(np.median(theirs))
    return BenchResult(
        ours_ms=ours_ms,
        baseline_ms=baseline_ms,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        threads=threads,
        peak_rss_mb=peak_rss_mb[0],
        baseline_peak_rss_mb=peak_rss_mb[1],
        ours_spread=float(np.subtract(*np.percentile(ours, (75, 25)))) / ours_ms,
        baseline_spread=float(np.subtract(*np.percentile(theirs, (75, 25)))) / baseline_ms,
        throughput=1e3 / ours_ms,
        baseline_throughput=1e3 / baseline_ms,
        runs=ours.size,
        baseline_runs=theirs.size,
        rounds=len(rounds),
        baseline=baseline,
        max_rel_difference=max_rel_difference,
    )


__all__ = ["PORTABLE", "BenchResult", "Round", "summarise"]
