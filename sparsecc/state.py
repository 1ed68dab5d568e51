"""What a model is to be given back from one call to the next: the blocks that attention keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecc.manifest import Manifest, StateEntry
from sparsecc.measure import Array, Feed, Session, largest_error, max_rel_error, run_once
from sparsecc.search.plan import Plan

ERROR, APART = "max_rel_error", "blocks_apart"
"""The largest error of an output relative to its largest magnitude; the largest share of the blocks
found by a search that the twin's does not find."""
MOST_APART = 0.01
"""What rounding may make of that."""


@dataclass(frozen=True)
class Sampling:
    """The calls of a model that searches blocks online, from the first to the last.

    Attributes:
        entries: Inputs that are carried, the step first.
        steps: How many calls there are.
        full: The first that does not keep every block.
        after: A call that keeps what was found before, whatever the attention.
    """

    entries: tuple[StateEntry, ...]
    steps: int
    full: int
    after: int

    @classmethod
    def of(cls, manifest: Manifest) -> Sampling | None:
        """The sampling of an artifact; None where nothing is carried.

        Raises:
            PlanError: The plan of the manifest is none.
        """
        if not manifest.state:
            return None
        plan = Plan.from_json(json.dumps(manifest.plan), "the manifest's plan")
        online = [each.online for each in plan.attention if each.online is not None]
        return cls(
            tuple(manifest.state),
            steps=max((each.steps for each in online), default=1),
            full=max((each.full for each in online), default=0),
            after=1 + max((each.searches[-1] for each in online), default=0),
        )

    def begun(self, step: int = 0) -> dict[str, Array]:
        """What a call is given that has no call before it; a late one then searches."""
        return {each.name: np.full(each.dims, each.begin, each.dtype) for each in self.entries} | {
            self.entries[0].name: np.array([step], np.int64)
        }

    def following(self, step: int, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What a call is given behind one with these outputs."""
        found = {each.name: outputs[each.next] for each in self.entries if each.next}
        return self.begun(step) | found

    @property
    def carried(self) -> set[str]:
        """Names of the outputs that are there to be given back."""
        return {each.next for each in self.entries if each.next}


class AtCall:
    """A session of such a model like one without state: every run is the same call of a sampling.

    Args:
        session: Of the model.
        sampling: What it carries.
        given: The state at that call.
    """

    def __init__(self, session: Session, sampling: Sampling, given: Feed) -> None:
        self._session, self._sampling, self._given = session, sampling, given

    def get_inputs(self) -> Sequence[Any]:
        """Those of the user's model."""
        return [each for each in self._session.get_inputs() if each.name not in self._given]

    def get_outputs(self) -> Sequence[Any]:
        """Those of the user's model."""
        carried = self._sampling.carried
        return [each for each in self._session.get_outputs() if each.name not in carried]

    def run(self, names: Any, feed: Any) -> Sequence[Any]:
        """Outputs of the user's model, all of them."""
        results = outputs_of(self._session, {**feed, **self._given})
        return [results[each.name] for each in self.get_outputs()]


def outputs_of(session: Session, feed: Feed) -> dict[str, Array]:
    """All outputs of one run by name.

    Raises:
        ModelError: The model does not run on this feed.
    """
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, run_once(session, feed), strict=True))


def numerics(
    session: Session, twin: Session, feeds: Sequence[Feed], sampling: Sampling | None
) -> dict[str, float]:
    """How far a model is from its twin: :data:`ERROR`, the worst error of any output.

    Of a model that searches online, these are the outputs of the first call and of one behind a
    search, the blocks that are handed on among them; both get the same blocks. A search may decide
    otherwise between two blocks, or two heads, that are alike to rounding, which is no error: how
    much it does is :data:`APART`. Where that is more than :data:`MOST_APART`, the answers of the
    calls that search count as well, since they have to be alike.
    """
    if sampling is None:
        return {ERROR: largest_error(session, twin, feeds)}
    worst, apart = 0.0, 0.0
    for feed in feeds:
        searching = {**feed, **sampling.begun(sampling.full)}
        found, theirs = (outputs_of(each, searching) for each in (session, twin))
        here = max((_apart(found[name], theirs[name]) for name in sampling.carried), default=0.0)
        if here > MOST_APART:
            names = [name for name in found if name not in sampling.carried]
            answers = ([each[name] for name in names] for each in (found, theirs))
            worst = max(worst, max_rel_error(*answers))
        apart = max(apart, here)
        calls = [sampling.following(sampling.after, found)]
        calls += [sampling.begun()] if sampling.full else []
        worst = max(worst, largest_error(session, twin, [{**feed, **call} for call in calls]))
    return {ERROR: worst, APART: apart}


def _apart(ours: Array, theirs: Array) -> float:
    """Share of kept blocks that only one of two indices has."""
    one, other = (index[index >= 0] for index in (ours, theirs))
    return len(np.setxor1d(one, other)) / max(1, len(one) + len(other))


__all__ = ["AtCall", "Sampling", "numerics", "outputs_of"]
