"""Everything a written report says, as plain data: what its page, Markdown and JSON are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sparsecc.report.rows import DENSE_KERNEL, TVM_KERNEL, LayerRow

if TYPE_CHECKING:
    from sparsecc.manifest import NodeEntry
    from sparsecc.report.measured import Measured
    from sparsecc.report.report import Report
    from sparsecc.search.plan import (
        Choice,
        PlanBudget,
        PlanLayer,
        PlanOption,
        PlanPoint,
        PlanRecovery,
    )
    from sparsecc.targets import Target

FORMAT = 1
"""Version of the JSON form."""

Kind = Literal["sparse", "structured", "library", "dense"]
"""Skips zeros; factors of its weight; dense, in the library; dense, left to another."""


@dataclass(frozen=True)
class OptionEntry:
    """What could have been done to a layer.

    Attributes:
        choice: Pattern and share of zeros, such as ``4x1:0.8``.
        chosen: Whether it is what was done.
        density: Share of weights that are not zero.
        loss: Relative output error of the layer, if measured.
        est_ms: Estimated time, ms.
        weight_bytes: Of its weight, as stored.
        why_not: Why it was not chosen.
    """

    choice: str
    chosen: bool
    density: float
    loss: float | None
    est_ms: float
    weight_bytes: int
    why_not: str


@dataclass(frozen=True)
class LayerEntry:
    """One layer: what :class:`LayerRow` says, and what plan, regions and measurement add.

    Attributes:
        row: What was decided.
        kind: Who runs it.
        kernel: What runs it: a kernel's name, ``onnxruntime``, ``tvm``, or ``step of a region``.
        why: Why this was chosen.
        choice: Pattern and share of zeros asked for; "" where the plan does not name the layer.
        region: The region it is in; "" outside.
        share: Share of the estimated time of all layers.
        spread: Relative uncertainty of the estimate, one standard deviation; None when unknown.
        loss: Relative output error on held-out calibration data; None when not measured.
        measured_ms: Time of the layer alone; None when not measured.
        measured_dense_ms: The same of the layer dense.
        options: What was weighed, fastest first.
    """

    row: LayerRow
    kind: Kind
    kernel: str
    why: str
    choice: str
    region: str
    share: float
    spread: float | None
    loss: float | None
    measured_ms: float | None
    measured_dense_ms: float | None
    options: tuple[OptionEntry, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, the row's keys among the others."""
        rest = {key: value for key, value in dataclasses.asdict(self).items() if key != "row"}
        return self.row.to_json() | rest


@dataclass(frozen=True)
class NodeMark:
    """One node of the drawn graph.

    Attributes:
        name: Its name.
        op: Its op type.
        kind: What became of it: a layer's kind, ``step`` of a region, ``outside``, or, in the graph
            before, ``gone`` for what was folded or fused away.
        region: The region it is in; "" outside.
        why: Why it is outside of the regions.
    """

    name: str
    op: str
    kind: str
    region: str = ""
    why: str = ""


@dataclass(frozen=True)
class Document:
    """What a report says; absent parts are None or empty.

    Attributes:
        title: What it is about, such as the name of the artifact's folder.
        target: The hardware that times are estimated for; None when it is unknown here.
        target_name: Its name.
        dense_ms: Estimated time of all layers dense, one thread, ms.
        est_ms: The same as chosen.
        speedup: One by the other.
        before_weights: What was done to the model before that, in words, or "".
        dense_bytes: Bytes of the weights of the model that came in.
        size_bytes: Bytes of the artifact.
        quality: Measured agreement with the model that came in.
        numerics: Measured agreement with the masked-dense twin.
        budget: What the search was allowed, and what it came to.
        points: Whole-model plans that were weighed, fastest first.
        recovery: How the weights that stayed were trained, if they were.
        measured: Times measured on a machine.
        layers: In the order of the model.
        before: The graph that came in.
        after: The graph that was written.
        regions: Region → number of its steps.
        outside: Reason → how many nodes it kept out of the regions.
        refusals: Reason → how many nodes it kept another pass from.
        made_by: What made the artifact: versions, hashes, settings.
        files: Name → size and SHA-256 of the artifact's files.
    """

    title: str
    target: Target | None
    target_name: str
    dense_ms: float
    est_ms: float
    speedup: float
    before_weights: str
    dense_bytes: int | None
    size_bytes: int | None
    quality: Mapping[str, float]
    numerics: Mapping[str, float]
    budget: PlanBudget | None
    points: tuple[PlanPoint, ...]
    recovery: PlanRecovery | None
    measured: Measured | None
    layers: tuple[LayerEntry, ...]
    before: tuple[NodeMark, ...]
    after: tuple[NodeMark, ...]
    regions: Mapping[str, int]
    outside: Mapping[str, int]
    refusals: Mapping[str, int]
    made_by: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def other(self) -> str:
        """Who runs what the library does not."""
        return (
            "code by TVM"
            if self.target and self.target.backend != "onnxruntime"
            else "ONNX Runtime"
        )

    def count(self, kind: Kind) -> int:
        """How many layers are of a kind."""
        return sum(layer.kind == kind for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the keys are stable."""
        return {
            "format": FORMAT,
            "title": self.title,
            "target": self.target_name,
            "dense_ms": self.dense_ms,
            "est_ms": self.est_ms,
            "speedup": self.speedup,
            "before_weights": self.before_weights,
            "dense_bytes": self.dense_bytes,
            "size_bytes": self.size_bytes,
            "quality": dict(self.quality),
            "numerics": dict(self.numerics),
            "budget": None if self.budget is None else self.budget.model_dump(mode="json"),
            "points": [point.model_dump(mode="json") for point in self.points],
            "recovery": None if self.recovery is None else self.recovery.model_dump(mode="json"),
            "measured": None if self.measured is None else self.measured.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "graph": {
                "before": [dataclasses.asdict(node) for node in self.before],
                "after": [dataclasses.asdict(node) for node in self.after],
                "regions": dict(self.regions),
            },
            "outside_regions": dict(self.outside),
            "refusals": dict(self.refusals),
            "made_by": dict(self.made_by),
            "files": {
                name: {"bytes": size, "sha256": digest}
                for name, (size, digest) in self.files.items()
            },
        }


def document(report: Report, measured: Measured | None = None) -> Document:
    """What a report says.

    Args:
        report: Of an artifact, or of an inspection.
        measured: Times measured on this machine.
    """
    plan, manifest = report.plan, report.manifest
    after = manifest.nodes_after if manifest else []
    region_of = {node.name: node.region for node in after}
    planned = {layer.name: layer for layer in plan.layers} if plan else {}
    layers = tuple(
        _layer(row, planned.get(row.name), region_of.get(row.name, ""), report.est_ms, measured)
        for row in report.rows
    )
    return Document(
        title=report.title,
        target=_target(report),
        target_name=report.target,
        dense_ms=report.dense_ms,
        est_ms=report.est_ms,
        speedup=report.speedup,
        before_weights=report.before_weights,
        dense_bytes=manifest.dense_bytes if manifest else None,
        size_bytes=report.size_bytes,
        quality=report.quality,
        numerics=report.numerics,
        budget=plan.budget if plan else None,
        points=plan.points if plan else (),
        recovery=plan.recovery if plan else None,
        measured=measured,
        layers=layers,
        before=_before(report, layers),
        after=_after(report, layers),
        regions={each.op_type: each.steps for each in manifest.regions} if manifest else {},
        outside=report.outside_by_reason(),
        refusals=report.refusals_by_reason(),
        made_by=_made_by(report),
        files=_files(report),
    )


def kind_of_layer(row: LayerRow, region: str) -> Kind:
    """Who runs a layer: the library runs whatever is in a region."""
    if row.structure:
        return "structured"
    if row.is_sparse:
        return "sparse"
    return "dense" if row.kernel in (DENSE_KERNEL, TVM_KERNEL) and not region else "library"


def _layer(
    row: LayerRow, planned: PlanLayer | None, region: str, total: float, measured: Measured | None
) -> LayerEntry:
    options = planned.options if planned else ()
    times = measured.layers.get(row.name) if measured else None
    return LayerEntry(
        row=row,
        kind=kind_of_layer(row, region),
        kernel="step of a region" if region and row.kernel == DENSE_KERNEL else row.kernel,
        why=(planned.reason if planned else "") or row.why,
        choice=choice_text(planned.choice) if planned else "",
        region=region,
        share=row.est_ms / total if total else 0.0,
        spread=planned.spread if planned else None,
        loss=planned.loss if planned else None,
        measured_ms=times.ms if times else None,
        measured_dense_ms=times.dense_ms if times else None,
        options=tuple(_option(option, planned.choice) for option in options) if planned else (),
    )


def _option(option: PlanOption, chosen: Choice) -> OptionEntry:
    return OptionEntry(
        choice=choice_text(option.choice),
        chosen=option.choice == chosen,
        density=option.density,
        loss=option.loss,
        est_ms=option.predicted_ms,
        weight_bytes=option.weight_bytes,
        why_not=option.why_not,
    )


def choice_text(choice: Choice) -> str:
    """A choice as a user writes it: ``4x1:0.8``, ``dense``, ``rank:64 + 4x1:0.8``."""
    pattern = str(choice.pattern)
    zeros = pattern if pattern == "dense" else f"{pattern}:{choice.sparsity:.3g}"
    if choice.structure:
        return choice.structure if zeros == "dense" else f"{choice.structure} + {zeros}"
    return zeros


def _target(report: Report) -> Target | None:
    from sparsecc import targets  # reads the processor's features
    from sparsecc.errors import TargetError

    hardware = report.manifest.hardware if report.manifest else {}
    try:
        return targets.described(report.target, hardware)
    except TargetError:
        return None


def _after(report: Report, layers: tuple[LayerEntry, ...]) -> tuple[NodeMark, ...]:
    """The nodes that were written, marked by what they are."""
    if report.manifest is None:
        return ()
    by_name = {layer.row.name: layer for layer in layers}
    reasons = {refusal.node: refusal.reason for refusal in report.region_refusals()}
    return tuple(
        NodeMark(
            node.name,
            node.op,
            _kind_of_node(node, by_name.get(node.name)),
            node.region,
            "" if node.region else reasons.get(node.name, ""),
        )
        for node in report.manifest.nodes_after
    )


def _before(report: Report, layers: tuple[LayerEntry, ...]) -> tuple[NodeMark, ...]:
    """The nodes that came in, marked by what became of them."""
    if report.manifest is None:
        return ()
    by_name = {layer.row.name: layer for layer in layers}
    after = {node.name: node for node in report.manifest.nodes_after}
    marks = []
    for node in report.manifest.nodes_before:
        kept = after.get(node.name)
        kind = _kind_of_node(kept, by_name.get(node.name)) if kept else "gone"
        marks.append(NodeMark(node.name, node.op, kind, kept.region if kept else ""))
    return tuple(marks)


def _kind_of_node(node: NodeEntry, layer: LayerEntry | None) -> str:
    if layer is not None:
        return layer.kind
    return "step" if node.region else "outside"


def _made_by(report: Report) -> dict[str, str]:
    made = {"target": report.target}
    if report.manifest is not None:
        made = {"sparsecc": report.manifest.sparsecc} | made
    if report.plan is not None:
        plan = report.plan
        made |= {
            "model": f"sha256 {plan.model_hash}",
            "sparsity": plan.spec,
            **{f"sparsity of {names}": spec for names, spec in plan.overrides.items()},
            "allocation": plan.allocation,
            "cost table": plan.costs,
        }
        if plan.mode:
            made |= {"search": f"{plan.mode}, seed {plan.seed}"}
    if report.manifest is not None:
        made |= report.manifest.tools
    return made


def _files(report: Report) -> dict[str, tuple[int, str]]:
    from sparsecc.manifest import REPORT_NAME

    files = report.manifest.files if report.manifest else {}
    return {
        name: (entry.bytes, entry.sha256) for name, entry in files.items() if name != REPORT_NAME
    }


__all__ = [
    "FORMAT",
    "Document",
    "Kind",
    "LayerEntry",
    "NodeMark",
    "OptionEntry",
    "choice_text",
    "document",
    "kind_of_layer",
]
