"""Pictures of what was measured, as SVG files that are the same bytes for the same figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import BASELINE, OURS
from benchmarks.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("C0", "C1", "C2", "C4", "C5", "C6", "C7", "C8", "C9")
OURS_STYLE = {"color": "C3", "linewidth": 2.0, "zorder": 3}
NO_METADATA = {"Date": None, "Creator": None}
PANEL_INCHES = (3.4, 2.8)
PANELS_WIDE = 4


def _figure(rows: int, columns: int, panel: tuple[float, float]) -> tuple[Figure, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sparsecc"
    matplotlib.rcParams["font.size"] = 8
    from matplotlib import pyplot

    size = (columns * panel[0], rows * panel[1])
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False)


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, format="svg", bbox_inches="tight", metadata=NO_METADATA)
    pyplot.close(figure)
    # Lines that end in blanks make every diff of the file larger than what changed.
    lines = (line.rstrip() for line in path.read_text().splitlines())
    path.write_text("\n".join(lines) + "\n")


def models(rows: Sequence[Row], titles: Mapping[str, str], path: Path) -> None:
    """Speed-up over the baseline: a panel per number of threads and model, a color per engine."""
    pairs = sorted(dict.fromkeys((row.threads, row.model) for row in rows), key=itemgetter(0))
    wide = min(len(pairs), PANELS_WIDE)
    styles = engine_styles(titles)
    figure, panels = _figure(math.ceil(len(pairs) / wide), wide, PANEL_INCHES)
    shown: dict[str, Any] = {}
    for panel, pair in zip_longest(chain.from_iterable(panels), pairs):
        panel.set_visible(pair is not None)
        if pair is not None:
            threads, name = pair
            here = [row for row in rows if (row.threads, row.model) == pair]
            shown |= _speed_ups(panel, here, styles)
            panel.set_title(f"{name}, {threads} thread{'s' if threads > 1 else ''}")
    for line in panels:
        line[0].set_ylabel(f"× {titles[BASELINE]}")
    order = [key for key in styles if key in shown]
    place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "fontsize": 7}
    panels[0][-1].legend([shown[key] for key in order], [titles[key] for key in order], **place)
    _save(figure, path)


def engine_styles(titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How each engine but the baseline is drawn: the same in every panel, ours apart."""
    peers = [key for key in titles if key not in {BASELINE, OURS}]
    drawn = {key: {"color": color} for key, color in zip(peers, cycle(COLORS), strict=False)}
    return {OURS: OURS_STYLE} | drawn


def _speed_ups(
    panel: Any, rows: Sequence[Row], styles: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Draws the engines of one panel, a line per kind of zeros; returns one line of each engine."""
    patterns = list(dict.fromkeys(row.pattern for row in rows))
    lines: dict[str, Any] = {}
    panel.axhline(1, color="gray", linewidth=0.8)
    for key, style in styles.items():
        found = [row for row in rows if row.engine == key and not row.unavailable]
        for _, kind in groupby(found, lambda row: row.pattern.rpartition(":")[0]):
            each = list(kind)
            places, ratios = [patterns.index(r.pattern) for r in each], [r.ratio for r in each]
            (lines[key],) = panel.plot(places, ratios, marker="o", markersize=3, **style)
    panel.set_xticks(range(len(patterns)), patterns, rotation=60, ha="right", fontsize=6)
    panel.set_ylim(bottom=0)
    panel.grid(axis="y", linewidth=0.3)
    return lines


def roofline(
    points: Mapping[str, Sequence[tuple[float, float]]],
    peak_gflops: float,
    bandwidths: Mapping[str, float],
    path: Path,
) -> None:
    """Points (FLOP per byte, GFLOP/s) of each pattern below the roofs of the machine.

    Args:
        points: By pattern.
        peak_gflops: Measured multiply-add peak of one core.
        bandwidths: Measured GB/s by level of memory.
        path: SVG file.
    """
    figure, panels = _figure(1, 1, (6.4, 4.2))
    panel = panels[0][0]
    intensities = [x for each in points.values() for x, _ in each]
    low, high = min(intensities) / 2, max(intensities) * 2
    for (name, bandwidth), dash in zip(bandwidths.items(), ("--", ":", "-."), strict=False):
        ridge = min(high, peak_gflops / bandwidth)
        ends = [low, ridge] if ridge > low else [low, low]
        roof = [min(peak_gflops, x * bandwidth) for x in ends]
        panel.plot(ends, roof, dash, color="gray", label=f"{name}, {bandwidth:.0f} GB/s")
    panel.axhline(peak_gflops, color="black", label=f"peak, {peak_gflops:.0f} GFLOP/s")
    for pattern, each in points.items():
        panel.plot(*zip(*each, strict=True), "o", markersize=4, label=pattern)
    panel.set(xscale="log", yscale="log", xlim=(low, high))
    panel.set(xlabel="FLOP on non-zeros per byte of input, output and weights", ylabel="GFLOP/s")
    panel.grid(which="both", linewidth=0.3)
    panel.legend(fontsize=7)
    _save(figure, path)


@dataclass(frozen=True)
class Point:
    """A model with some zeros, made by some method.

    Attributes:
        model: Title of its panel.
        method: What it is coloured by.
        zeros: Pattern and share; the pattern is what a line joins.
        speed: Over the dense model.
        lost: Of quality, as a share.
    """

    model: str
    method: str
    zeros: str
    speed: float
    lost: float


LEAST_LOST = 1e-4  # what is drawn where nothing was lost: the axis is logarithmic
MARKERS = ("o", "s", "^", "D")


def pareto(points: Sequence[Point], path: Path) -> None:
    """Quality lost against speed-up: a panel per model, a color per method, a marker per pattern.

    The method that comes last has the color of ours. A line joins what no other point of the
    panel beats in both.
    """
    models = list(dict.fromkeys(point.model for point in points))
    methods = list(dict.fromkeys(point.method for point in points))
    colors = dict(zip(methods, cycle(COLORS), strict=False))
    colors[methods[-1]] = OURS_STYLE["color"]
    kinds = dict.fromkeys(_kind(point.zeros) for point in points)
    markers = dict(zip(kinds, cycle(MARKERS), strict=False))
    figure, panels = _figure(1, len(models), (3.4, 3.4))
    for panel, model in zip(panels[0], models, strict=True):
        here = [point for point in points if point.model == model]
        for point in here:
            style = {"color": colors[point.method], "marker": markers[_kind(point.zeros)]}
            panel.plot(point.speed, _drawn(point), linestyle="none", markersize=4, **style)
        best = frontier(here)
        line = [(point.speed, _drawn(point)) for point in best]
        panel.plot(*zip(*line, strict=True), color="gray", linewidth=0.8, zorder=0)
        panel.axvline(1, color="gray", linewidth=0.8, linestyle=":")
        panel.set(yscale="log", xlabel="speed-up over ONNX Runtime, dense", title=model)
        panel.invert_yaxis()
        panel.grid(linewidth=0.3)
    panels[0][0].set_ylabel("quality lost (up is better)")
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=color, marker="o", linestyle="none") for color in colors.values()]
    hollow = {"color": "black", "markerfacecolor": "none", "linestyle": "none"}
    keys += [Line2D([], [], marker=marker, **hollow) for marker in markers.values()]
    place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "fontsize": 7}
    panels[0][-1].legend(keys, [*colors, *markers], **place)
    _save(figure, path)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in speed and in what is lost, the slowest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (-each.speed, each.lost)):
        if not best or point.lost < best[-1].lost:
            best.append(point)
    return best[::-1]


def _kind(zeros: str) -> str:
    return zeros.partition(":")[0]


def _drawn(point: Point) -> float:
    return max(point.lost, LEAST_LOST)
