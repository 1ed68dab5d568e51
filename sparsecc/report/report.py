"""The report of one compilation or inspection: rows, totals, reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparsecc.report.lines import kind_of
from sparsecc.report.rows import LayerRow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from sparsecc.manifest import Manifest
    from sparsecc.passes.base import Refusal

_PLAIN_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """What sparsecc found or did, layer by layer; ``print`` it, or render it with rich.

    Attributes:
        rows: One per layer, in the order of the model.
        target: Name of the target that times are estimated for.
        title: What the report is about, such as the path of a model.
        refusals: What passes left alone.
        size_bytes: Bytes of the artifact; None when nothing was written.
        numerics: Measured agreement of the artifact with its masked-dense twin.
        quality: Measured agreement with the user's dense model.
    """

    rows: Sequence[LayerRow]
    target: str
    title: str = ""
    refusals: Sequence[Refusal] = ()
    size_bytes: int | None = None
    numerics: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_manifest(cls, manifest: Manifest, title: str = "") -> Report:
        """The report of an artifact, from what its manifest says."""
        from sparsecc.passes.base import Refusal  # a report of rows alone needs no IR

        return cls(
            rows=[LayerRow.from_json(row) for row in manifest.layers],
            target=manifest.target,
            title=title,
            refusals=[Refusal(**refusal) for refusal in manifest.refusals],
            size_bytes=sum(entry.bytes for entry in manifest.files.values()),
            numerics=manifest.numerics,
            quality=manifest.quality,
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

    def refusals_by_reason(self) -> dict[str, int]:
        """Reason → how many nodes it kept a pass from, most frequent first.

        Reasons of one kind count together, under the first of them; those that the rows give
        are left out.
        """
        told = {kind_of(row.why) for row in self.rows}
        kinds: dict[str, list[str]] = {}
        for refusal in self.refusals:
            if kind_of(refusal.reason) not in told:
                kinds.setdefault(kind_of(refusal.reason), []).append(refusal.reason)
        alike = sorted(kinds.values(), key=len, reverse=True)
        return {reasons[0]: len(reasons) for reasons in alike}

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


__all__ = ["Report"]
