"""The report of one compilation or inspection: rows, totals, reasons."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.report.changes import before_weights
from sparsecc.report.lines import kind_of
from sparsecc.report.rows import LayerRow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from sparsecc.manifest import Manifest
    from sparsecc.passes.base import Refusal
    from sparsecc.report.measured import Measured
    from sparsecc.search.plan import Plan

_PLAIN_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """What sparsecc found or did, layer by layer; ``print`` it, or render it with rich.

    Attributes:
        rows: One per layer, in the order of the model.
        target: Name of the target that times are estimated for.
        title: What the report is about, such as the path of a model.
        regions: Names of the nodes of each region.
        refusals: What passes left alone.
        size_bytes: Bytes of the artifact; None when nothing was written.
        numerics: Measured agreement of the artifact with its masked-dense twin.
        quality: Measured agreement with the user's dense model.
        plan: What was decided and weighed; None for an inspection.
        manifest: What the artifact says about itself; None for an inspection.
    """

    rows: Sequence[LayerRow]
    target: str
    title: str = ""
    regions: Sequence[Sequence[str]] = ()
    refusals: Sequence[Refusal] = ()
    size_bytes: int | None = None
    numerics: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    manifest: Manifest | None = None

    @classmethod
    def from_manifest(cls, manifest: Manifest, title: str = "") -> Report:
        """The report of an artifact, from what its manifest says.

        Raises:
            ArtifactError: A layer's row is malformed.
            PlanError: Its plan is not one.
        """
        from sparsecc.passes.base import Refusal  # a report of rows alone needs no IR
        from sparsecc.search.plan import Plan

        return cls(
            rows=[LayerRow.from_json(row) for row in manifest.layers],
            target=manifest.target,
            title=title,
            regions=[list(region.nodes) for region in manifest.regions],
            refusals=[Refusal(**refusal.model_dump()) for refusal in manifest.refusals],
            size_bytes=manifest.size_bytes,
            numerics=manifest.numerics,
            quality=manifest.quality,
            plan=Plan.from_json(json.dumps(manifest.plan), "the manifest's plan"),
            manifest=manifest,
        )

    @property
    def est_ms(self) -> float:
        """Estimated time of all layers as chosen, one thread, ms."""
        return sum(row.est_ms for row in self.rows)

    @property
    def dense_ms(self) -> float:
        """Estimated time of all layers dense, one thread, ms."""
        return sum(row.dense_ms for row in self.rows)

    @property
    def speedup(self) -> float:
        """Estimated dense time / chosen time of the layers; 1 when there is nothing to time."""
        return self.dense_ms / self.est_ms if self.est_ms else 1.0

    @property
    def before_weights(self) -> str:
        """What was done to the model before its weights, or ""."""
        return before_weights(self.plan) if self.plan else ""

    def refusals_by_reason(self) -> dict[str, int]:
        """Reason → how many nodes it kept a pass from, most frequent first.

        Reasons of one kind count together, under the first of them; those that the rows give, and
        those of :meth:`outside_by_reason`, are left out.
        """
        told = {kind_of(row.why) for row in self.rows}
        reasons = [refusal.reason for refusal in self._split_refusals()[1]]
        return _by_kind(reason for reason in reasons if kind_of(reason) not in told)

    def outside_by_reason(self) -> dict[str, int]:
        """Reason → how many nodes it kept out of the regions, most frequent first."""
        return _by_kind(refusal.reason for refusal in self.region_refusals())

    def region_refusals(self) -> list[Refusal]:
        """Nodes outside the regions, and why."""
        return self._split_refusals()[0]

    def _split_refusals(self) -> tuple[list[Refusal], list[Refusal]]:
        """Those of nodes outside the regions, and all others."""
        if not self.refusals:
            return [], []
        from sparsecc.passes.regions.form import FormRegions  # refusals come with the IR

        ours: tuple[list[Refusal], list[Refusal]] = ([], [])
        for refusal in self.refusals:
            ours[refusal.pass_name != FormRegions.name].append(refusal)
        return ours

    def save(self, path: str | os.PathLike[str], measured: Measured | None = None) -> Path:
        """Write the report for reading or for programs: a page, Markdown or JSON.

        Args:
            path: File to write; its suffix, ``.html``, ``.md`` or ``.json``, says in which form.
            measured: Times measured on this machine, to be set beside the estimates.

        Raises:
            ReportError: The suffix is another, or the file cannot be written.
        """
        from sparsecc.report.document import document
        from sparsecc.report.write import write  # templates are not needed to print

        return write(document(self, measured), Path(path))

    def to_json(self) -> dict[str, Any]:
        """Plain data; the keys are stable."""
        return {
            "target": self.target,
            "layers": [row.to_json() for row in self.rows],
            "est_ms": self.est_ms,
            "dense_ms": self.dense_ms,
            "speedup": self.speedup,
            "size_bytes": self.size_bytes,
            "numerics": dict(self.numerics),
            "quality": dict(self.quality),
            "regions": [list(nodes) for nodes in self.regions],
            "outside_regions": self.outside_by_reason(),
            "refusals": self.refusals_by_reason(),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from sparsecc.report.terminal import render

        yield from render(self, options.max_width)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=_PLAIN_WIDTH, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _by_kind(reasons: Iterable[str]) -> dict[str, int]:
    """Reason → how often one of its kind is among them, most frequent first."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(kind_of(reason), []).append(reason)
    alike = sorted(kinds.values(), key=len, reverse=True)
    return {same[0]: len(same) for same in alike}


__all__ = ["Report"]
