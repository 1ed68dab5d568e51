"""The plan file: what was decided for each layer and why, as versioned, strictly checked JSON."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import pydantic

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import Pattern, Whole
from sparsecc.formats.structures import Structure
from sparsecc.search.attentions import PlanAttention
from sparsecc.search.fields import Count, Number, Share, Strict, Text, Unit
from sparsecc.search.mixtures import PlanExperts
from sparsecc.search.routing import PlanMixture
from sparsecc.versioned import FileKind

FORMAT: Final = 6
"""Version of the plan file this code reads and writes."""
MAX_BYTES = 64 << 20

Method = Literal["magnitude", "wanda", "sparsegpt", "alps", "existing"]
"""How a mask is found; ``existing`` keeps the zeros the weight already has."""


def _pattern(value: object) -> Pattern:
    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str):
        raise ValueError("a pattern is a text such as '4x1'")
    try:
        return Pattern.parse(value)
    except PlanError as error:
        raise ValueError(str(error)) from error


def _structure(text: str) -> str:
    try:
        return text and str(Structure.parse(text))
    except PlanError as error:
        raise ValueError(str(error)) from error


PatternText = Annotated[
    Pattern, pydantic.PlainValidator(_pattern), pydantic.PlainSerializer(str, return_type=str)
]


StructureText = Annotated[str, pydantic.Field(max_length=40), pydantic.AfterValidator(_structure)]


class Choice(Strict):
    """What is done to one layer.

    Attributes:
        pattern: What is dropped together; dense leaves the layer alone.
        sparsity: Share of the weights that becomes zero.
        method: How the mask is found.
        refit: Whether the weights that stay may change to make up for the others.
        structure: Factors that take the weight's place (``formats/structures.py``), or "". With a
            pattern, which goes with low rank alone, what the factors leave is kept with such zeros
            beside them; with the method ``existing`` the weight has the structure exactly.
    """

    pattern: PatternText
    sparsity: Share
    method: Method = "sparsegpt"
    refit: bool = True
    structure: StructureText = ""

    @property
    def changes(self) -> bool:
        """Whether the layer's weight does not stay as it is."""
        return self.method != "existing"


class PlanOption(Strict):
    """What could have been done to a layer.

    Attributes:
        choice: What would be done.
        density: Share of non-zero weights.
        loss: Relative output error of the layer on held-out calibration data, if measured.
        predicted_ms: Estimated time of the layer, in milliseconds.
        weight_bytes: Of its weight, as it would be stored.
        why_not: Why it was not chosen; "" for the one that was.
    """

    choice: Choice
    density: Share
    loss: Annotated[Number, pydantic.Field(ge=0)] | None = None
    predicted_ms: Annotated[Number, pydantic.Field(ge=0)]
    weight_bytes: Annotated[int, pydantic.Field(ge=0)]
    why_not: Text = ""


class PlanLayer(Strict):
    """One layer of a plan.

    Attributes:
        name: The layer's name in the model.
        op: Its operator.
        rows: R, outputs.
        cols: K, inputs of one output.
        choice: What is done to it.
        density: Share of non-zero weights it ends up with.
        loss: Relative error of its outputs against the dense model's own, on held-out calibration
            data, if measured.
        predicted_ms: Estimated time as chosen, in milliseconds.
        dense_ms: Estimated time if left dense, in milliseconds.
        spread: Relative uncertainty of ``predicted_ms``, one standard deviation.
        kernel: The kernel that runs it.
        reason: Why this choice.
        options: Everything that was weighed, the choice among it, fastest first; empty where
            nothing was searched.
    """

    name: Text
    op: Text
    rows: Count
    cols: Count
    choice: Choice
    density: Share
    loss: Annotated[Number, pydantic.Field(ge=0)] | None = None
    predicted_ms: Annotated[Number, pydantic.Field(ge=0)] | None = None
    dense_ms: Annotated[Number, pydantic.Field(ge=0)] | None = None
    spread: Annotated[Number, pydantic.Field(ge=0)] | None = None
    kernel: Text = ""
    reason: Text = ""
    options: tuple[PlanOption, ...] = ()


class PlanBudget(Strict):
    """What a search was allowed, and what it came to.

    Attributes:
        kind: What is limited: the drop of quality, the time, or the bytes of the weights.
        limit: At most so much: a share of the dense model's quality, milliseconds, or bytes.
        metric: What quality is (``quality/judges.py``).
        drop: Drop of quality of the chosen plan on held-out data, against the dense model.
        met: Whether the plan keeps to the limit.
    """

    kind: Literal["drop", "ms", "bytes"]
    limit: Annotated[Number, pydantic.Field(ge=0)]
    metric: Text
    drop: Number
    met: bool


class PlanPoint(Strict):
    """A whole-model plan that the search weighed.

    Attributes:
        name: What it is, such as "dense", "searched 3" or "uniform 4x1:0.5".
        predicted_ms: Estimated time of the model.
        drop: Drop of quality measured end to end on held-out data.
        chosen: Whether it is this plan.
    """

    name: Text
    predicted_ms: Annotated[Number, pydantic.Field(ge=0)]
    drop: Number
    chosen: bool = False


class PlanRecovery(Strict):
    """How the weights that stayed were trained to make up for the others.

    Attributes:
        steps: Steps of the optimiser.
        best: The step whose weights were kept; 0 for those that pruning left.
        before: Loss on held-out data before, see ``sparsecc/torch/recovery/losses.py``.
        after: The same of the weights that were kept.
        reason: What went wrong or was in vain, or "".
    """

    steps: Count
    best: Annotated[int, pydantic.Field(ge=0, lt=2**31)]
    before: Number
    after: Number
    reason: Text = ""

    def __str__(self) -> str:
        said = (
            f"recovered in {self.steps} steps: held-out loss {self.before:.3g} → {self.after:.3g}"
        )
        return f"{said}; {self.reason}" if self.reason else said


class PlanRemoval(Strict):
    """Channels, or heads, that were removed from the model before anything else was done to it.

    Attributes:
        name: The set: the first layer that makes them.
        kind: What they are.
        units: How many there were.
        gone: Which of them were removed.
        refit: Whether the layers that read the others may change to make up for them.
    """

    name: Text
    kind: Whole
    units: Count
    gone: Annotated[tuple[Unit, ...], pydantic.Field(min_length=1, max_length=1 << 20)]
    refit: bool = True

    @pydantic.model_validator(mode="after")
    def _some_stay(self) -> Self:
        ordered = all(one < other for one, other in itertools.pairwise(self.gone))
        if not ordered or self.gone[-1] >= self.units or len(self.gone) >= self.units:
            raise ValueError(
                f"gone must list fewer than all {self.units} units, each once, in ascending order"
            )
        return self


class PlanRefusal(Strict):
    """A node that was left alone, and why."""

    pass_name: Text
    node: Text
    reason: Text


class Plan(Strict):
    """Everything that was decided for one model on one target.

    Attributes:
        sparsecc: Version of sparsecc that wrote it.
        model_hash: Identifies the model it was made for.
        target: Name of the hardware.
        backend: What the model becomes; "" for what the target says.
        spec: The sparsity asked for, or ``search``.
        overrides: Layer name pattern → sparsity asked for instead.
        allocation: How the sparsity was spread over the layers.
        removed: Channels or heads, not both, that were removed first: its layers are those of what
            is left.
        mixtures: How tokens spread over the experts of mixtures, and which ones stay; attention
            and weights came after that.
        attention: What heads keep of their blocks of scores; weights were pruned after that.
        experts: Feed-forward networks whose neurons became experts, after attention and before
            weights were pruned: its layers are those of what is left.
        permuted: What coupled channels were put in order for before anything was pruned:
            ``choices``, what is done to the layers, or a sparsity such as 4x1:0.5; "" where they
            are as they were.
        mode: How thorough a search was, ``fast`` or ``thorough``; "" without one.
        seed: Of the search, and of the order of channels.
        costs: Where predicted times come from: ``roofline``, or the hash of a calibration table.
        budget: What a search was allowed.
        points: What it weighed end to end, fastest first.
        recovery: How the weights that stayed were trained, if they were.
        layers: In the order of the graph.
        refusals: In the order they were met.
    """

    sparsecc: Text
    model_hash: Text
    target: Text
    backend: Text = ""
    spec: Text
    overrides: dict[Text, Text] = pydantic.Field(default_factory=dict)
    allocation: Text = "uniform"
    removed: tuple[PlanRemoval, ...] = ()
    mixtures: tuple[PlanMixture, ...] = ()
    attention: tuple[PlanAttention, ...] = ()
    experts: tuple[PlanExperts, ...] = ()
    permuted: Text = ""
    mode: Text = ""
    seed: int = 0
    costs: Text = "roofline"
    budget: PlanBudget | None = None
    points: tuple[PlanPoint, ...] = ()
    recovery: PlanRecovery | None = None
    layers: tuple[PlanLayer, ...] = ()
    refusals: tuple[PlanRefusal, ...] = ()

    @pydantic.model_validator(mode="after")
    def _removed_at_once(self) -> Self:
        names = [each.name for each in self.removed]
        if len({*names}) < len(names):
            raise ValueError("removed names a set twice")
        if len({(each.kind, each.refit) for each in self.removed}) > 1:
            raise ValueError("removed must be of one kind, with one refit for all")
        return self

    @pydantic.model_validator(mode="after")
    def _each_attention_once(self) -> Self:
        if len({each.name for each in self.attention}) < len(self.attention):
            raise ValueError("attention names one twice")
        if len({each.online.steps for each in self.attention if each.online}) > 1:
            raise ValueError("attention has samplings of several lengths: one model has one")
        return self

    @pydantic.model_validator(mode="after")
    def _each_network_once(self) -> Self:
        if len({each.name for each in self.experts}) < len(self.experts):
            raise ValueError("experts names a network twice")
        return self

    @pydantic.model_validator(mode="after")
    def _each_mixture_once(self) -> Self:
        if len({each.name for each in self.mixtures}) < len(self.mixtures):
            raise ValueError("mixtures names one twice")
        return self

    @property
    def dense_because(self) -> str:
        """Why nothing is pruned, or ""."""
        reasons = dict.fromkeys(layer.reason for layer in self.layers)
        return "" if any(layer.density < 1 for layer in self.layers) else "; ".join(reasons)

    def to_json(self) -> str:
        """The file's text: same plan, same bytes."""
        return _FILE.text(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan, completely or not at all.

        Raises:
            PlanError: The file cannot be written.
        """
        _FILE.save(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: The file is missing, too large or not a plan.
        """
        return _FILE.load(path)

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "plan") -> Plan:
        """Read a plan from the text of its file; ``name`` stands for it in errors.

        Raises:
            PlanError: It is not JSON, of another version, or a field is wrong.
        """
        return _FILE.parse(text, name)


_FILE: FileKind[Plan] = FileKind(
    what="plan",
    format=FORMAT,
    max_bytes=MAX_BYTES,
    adapter=pydantic.TypeAdapter(Plan),
    error=PlanError,
    fix="undo the last edit, or make the plan again with this version of sparsecc",
)
