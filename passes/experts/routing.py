"""What tokens choose: the experts of a mixture on calibration data, and what they would else."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.passes.edit import constant, fresh_name, owner
from sparsecc.passes.experts.find import EXPERTS, Mixture, find_mixtures
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Calibration, Feed
from sparsecc.quality.segments import Schedule, open_segment, reads, schedule

MOST_TOKENS = 2048
"""Of the training samples, and of held-out ones, on which experts are run one by one."""
Floats = NDArray[np.floating]
Ids = NDArray[np.int64]
Kept = NDArray[np.bool_]
"""Of each expert, whether it can be chosen ``[E]``."""


class Routed(NamedTuple):
    """What comes to a mixture: tokens ``[T, d]``, and experts and gates of each ``[T, k]``."""

    tokens: Floats
    experts: Ids
    gates: Floats


@dataclass(frozen=True)
class Traffic:
    """How tokens spread over the experts of a mixture.

    Attributes:
        tokens: How many there were.
        chosen: How often each expert was chosen ``[E]``.
        gates: The mean size of its gate then, 0 where it never was ``[E]``.
        together: How many tokens chose two experts at once ``[E, E]``.
    """

    tokens: int
    chosen: Ids
    gates: NDArray[np.float64]
    together: Ids


@dataclass(frozen=True)
class Sample:
    """Some tokens on their way from a choice of experts to the mixture."""

    way: _Way
    feeds: tuple[Feed, ...]

    def routed(self, kept: Kept | None = None) -> Routed:
        """What comes to the mixture; where experts are left out, what tokens choose instead."""
        each = [self.way.routed(feed, kept) for feed in self.feeds]
        tokens = sum(len(routed.tokens) for routed in each) // self.way.rows
        every = max(1, -(-tokens // MOST_TOKENS))
        parts = (np.concatenate(part) for part in zip(*each, strict=True))
        return Routed(*(self._some(part, every) for part in parts))

    def _some(self, rows: NDArray[Any], every: int) -> NDArray[Any]:
        """All rows of one token in so many."""
        of_tokens = rows.reshape(-1, self.way.rows, rows.shape[1])
        return of_tokens[::every].reshape(-1, rows.shape[1])


@dataclass(frozen=True)
class Observed:
    """A mixture on calibration data.

    Attributes:
        mixture: Of a copy of the model.
        traffic: Of all data.
        train: Some tokens of the training samples.
        held_out: Some of the held-out ones; the same as of training where there are none.
    """

    mixture: Mixture
    traffic: Traffic
    train: Sample
    held_out: Sample


def observe(model: ir.Model, data: Calibration, told: Counted) -> list[Observed]:
    """What tokens choose at every mixture of a model, in its order.

    Args:
        model: In canonical form; it stays as it is.
        data: Sample inputs.
        told: Of each batch.

    Raises:
        CalibrationError: The model does not run on a batch.
    """
    copy = model.clone()
    seen = [_Seen(_Way(copy, each)) for each in find_mixtures(copy)]
    wanted = [(value, each.way.mixture.node) for each in seen for value in each.way.given]
    plan = schedule(copy, wanted)
    run = _Segment(plan, plan.nodes, [_name(value) for value, _ in wanted])
    for number, feed in enumerate(data.batches):
        told("which experts tokens choose", number, len(data.batches))
        made = run(feed, f"calibration batch {number}")
        for each in seen:
            each.add(made, number >= len(data.train))
    return [each.observed() for each in seen]


class _Seen:
    """What was seen of a mixture."""

    def __init__(self, way: _Way) -> None:
        count = way.mixture.count
        self.way = way
        self._tokens = 0
        self._chosen = np.zeros(count, np.int64)
        self._gates = np.zeros(count)
        self._together = np.zeros((count, count), np.int64)
        self._kept: tuple[list[Feed], list[Feed]] = ([], [])
        self._room = [MOST_TOKENS, MOST_TOKENS]

    def add(self, values: Feed, held_out: bool) -> None:
        given = {_name(value): values[_name(value)] for value in self.way.given}
        _, experts, gates = self.way.routed(given)
        count = len(self._chosen)
        if experts.size and (experts.min() < 0 or experts.max() >= count):
            raise CalibrationError(
                f"a token chose an expert outside of 0 … {count - 1}",
                node=self.way.mixture.name,
                fix="check the router of the model",
            )
        self._tokens += len(experts)
        self._chosen += np.bincount(experts.ravel(), minlength=count)
        self._gates += np.bincount(experts.ravel(), np.abs(gates).ravel(), minlength=count)
        hit = np.zeros((len(experts), count), np.float32)
        np.put_along_axis(hit, experts, 1, axis=1)
        self._together += np.rint(hit.T @ hit).astype(np.int64)
        if self._room[held_out] > 0:
            self._room[held_out] -= len(experts)
            self._kept[held_out].append(given)

    def observed(self) -> Observed:
        mean = self._gates / np.maximum(self._chosen, 1)
        traffic = Traffic(self._tokens, self._chosen, mean, self._together)
        train, held_out = (Sample(self.way, tuple(feeds)) for feeds in self._kept)
        return Observed(self.way.mixture, traffic, train, held_out if held_out.feeds else train)


class _Way:
    """What a model computes from the scores of experts up to a mixture.

    Args:
        model: Changed: a value of its own stands between the scores and the choice.
        mixture: Of this model.
    """

    def __init__(self, model: ir.Model, mixture: Mixture) -> None:
        self.mixture = mixture
        self._read = [value for value in mixture.node.inputs[:3] if value is not None]
        self.rows = _rows_of_token(mixture)
        self._scores = "" if mixture.choice is None else _apart(mixture.choice.node)
        self._nodes = _between(mixture, self._read)
        made = {output for node in self._nodes for output in node.outputs}
        read = [*self._read, *(value for node in self._nodes for value in reads(node))]
        self._plan = schedule(model, [(value, mixture.node) for value in self._read])
        self.given = [v for v in dict.fromkeys(read) if v not in made and v in self._plan.born]
        wanted = [_name(value) for value in self._read if value in made]
        self._run = _Segment(self._plan, self._nodes, wanted)

    def routed(self, given: Feed, kept: Kept | None = None) -> Routed:
        """What comes to the mixture where such values are given."""
        if kept is not None:
            scores = given[self._scores]
            given = given | {self._scores: np.where(kept, scores, lowest(scores.dtype))}
        made = self._run(given, "a sample") if self._nodes else given
        return Routed(*(_array(made, value) for value in self._read))


def _rows_of_token(mixture: Mixture) -> int:
    """Rows that the op has of a token: one for each of its experts where gates multiply tokens."""
    chosen = mixture.node.inputs[EXPERTS]
    columns = chosen.shape[-1] if chosen is not None and chosen.shape is not None else None
    return mixture.least if columns == 1 else 1


def _array(made: Feed, value: ir.Value) -> NDArray[Any]:
    fixed = constant(value)
    return np.asarray(made[_name(value)] if fixed is None else fixed)


def lowest(dtype: np.dtype[Any]) -> NDArray[Any]:
    """A score that is not chosen while there are others."""
    return np.array(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min, dtype)


def _apart(choice: ir.Node) -> str:
    """Let a choice read a copy of its scores, which others do not read; its name."""
    scores = choice.inputs[0]
    assert scores is not None
    copy = ir.Node("", "Identity", [scores], name=f"{choice.name}.scores")
    copy.outputs[0].name = fresh_name(owner(choice), f"{scores.name}.own")
    copy.outputs[0].type, copy.outputs[0].shape = scores.type, scores.shape
    owner(choice).insert_before(choice, copy)
    choice.replace_input_with(0, copy.outputs[0])
    return _name(copy.outputs[0])


def _between(mixture: Mixture, read: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes from the choice to the mixture, in the order of the graph."""
    if mixture.choice is None:
        return []
    behind, before = {mixture.choice.node}, set[ir.Node]()
    for node in owner(mixture.node):
        if any(value.producer() in behind for value in reads(node)):
            behind.add(node)
    waiting = list(read)
    while waiting:
        maker = waiting.pop().producer()
        if maker is not None and maker in behind and maker not in before:
            before.add(maker)
            waiting += reads(maker)
    return [node for node in owner(mixture.node) if node in before]


class _Segment:
    """Nodes of a model that run by themselves, once there is something to run them on."""

    def __init__(self, plan: Schedule, nodes: Sequence[ir.Node], wanted: Sequence[str]) -> None:
        self._plan, self._nodes, self._wanted = plan, nodes, list(dict.fromkeys(wanted))
        self._session: Any = None

    def __call__(self, feed: Feed, what: str) -> Feed:
        """What is wanted, and what was given."""
        wanted = [name for name in self._wanted if name not in feed]
        if not wanted:
            return feed
        try:
            if self._session is None:
                with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
                    self._session = open_segment(
                        self._plan, self._nodes, feed, wanted, Path(folder)
                    )
            needed = {each.name for each in self._session.get_inputs()}
            made = self._session.run(wanted, {n: a for n, a in feed.items() if n in needed})
        except Exception as error:
            raise CalibrationError(
                f"the model does not run on {what}: {error}",
                fix="check that the model runs on this input in ONNX Runtime",
            ) from error
        return feed | dict(zip(wanted, made, strict=True))


def _name(value: ir.Value) -> str:
    return str(value.name)


__all__ = [
    "MOST_TOKENS",
    "Ids",
    "Kept",
    "Observed",
    "Routed",
    "Sample",
    "Traffic",
    "lowest",
    "observe",
]
