"""Stream the inputs of a model's layers, layer by layer, through whatever is already compressed.

The model runs in pieces: from one wanted layer to the next, every piece once per calibration
batch. What is alive between two pieces is kept, in memory up to a budget and on disk beyond it.
A piece is built only when it is reached, so it holds the weights its layers have by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Calibration, Feed
from sparsecc.quality.moments import Moments, MomentSum, Window
from sparsecc.quality.segments import Schedule, open_segment, schedule

MEMORY_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Tap:
    """A layer input to observe.

    Attributes:
        name: Shown in progress and errors; seeds the sampling of rows.
        value: The activation.
        node: It is observed just before this node would run (the earliest of the layers that
            share it).
        window: How a convolution reads it, or None for a matrix product.
    """

    name: str
    value: ir.Value
    node: ir.Node
    window: Window | None


@dataclasses.dataclass(frozen=True)
class Observed:
    """What came through a tap.

    Attributes:
        tap: The tap.
        train: Statistics of the training batches.
        held_out: Statistics of the held-out batches, or None when there are none.
    """

    tap: Tap
    train: Moments
    held_out: Moments | None


def stream(
    model: ir.Model,
    taps: Sequence[Tap],
    calibration: Calibration,
    *,
    dense: ir.Model | None = None,
    memory_bytes: int = MEMORY_BYTES,
    on_progress: Counted | None = None,
) -> Iterator[Observed]:
    """Observe ``taps`` in the order of the graph.

    The caller may change the weights of the layers behind a tap before asking for the next one:
    everything after then sees the outputs of the changed layers.

    Args:
        model: The model; read again whenever the next piece is reached.
        taps: What to observe.
        calibration: The batches.
        dense: A copy of the model whose weights stay: what its layers read is observed beside.
        memory_bytes: Activations kept in memory between pieces; the rest goes to disk.
        on_progress: Called before every batch of every piece.

    Yields:
        The statistics of one tap after the other.

    Raises:
        CalibrationError: The model does not run on a batch, or an activation is not finite.
    """
    order = {node: number for number, node in enumerate(model.graph)}
    taps = sorted(taps, key=lambda tap: order[tap.node])
    models = [model] if dense is None else [model, dense]
    with contextlib.ExitStack() as stack:
        room, batches = memory_bytes // len(models), calibration.batches
        runs = [
            _Run(each, _taps_of(each, model, taps), stack.enter_context(Store(batches, room)))
            for each in models
        ]
        for done, tap in enumerate(taps):
            sums = [
                MomentSum(tap.name, tap.window, len(calibration.train)),
                MomentSum(tap.name, tap.window, len(calibration.held_out)),
            ]
            seen = zip(*(each.inputs(done) for each in runs), strict=True)
            for number, arrays in enumerate(seen):
                if on_progress is not None:
                    count = len(calibration.batches)
                    on_progress(f"inputs of {tap.name}", done * count + number, len(taps) * count)
                if not all(np.isfinite(array).all() for array in arrays):
                    raise CalibrationError(
                        f"calibration batch {number} makes an activation NaN or infinite",
                        node=tap.name,
                        fix="leave that batch out, or check the model on it",
                    )
                sums[number >= len(calibration.train)].add(*arrays)
            train, held_out = (each.finish() for each in sums)
            if train is None:
                raise CalibrationError(
                    "no calibration batch gives this layer any input",
                    node=tap.name,
                    fix="pass larger samples",
                )
            yield Observed(tap, train, held_out)


def _taps_of(copy: ir.Model, model: ir.Model, taps: Sequence[Tap]) -> list[Tap]:
    """The taps of ``model``, in a copy of it."""
    if copy is model:
        return list(taps)
    nodes = dict(zip(model.graph, copy.graph, strict=True))
    moved = []
    for tap in taps:
        node = nodes[tap.node]
        value = node.inputs[tap.node.inputs.index(tap.value)]
        assert value is not None
        moved.append(dataclasses.replace(tap, node=node, value=value))
    return moved


class _Run:
    """One model's way through its taps, in the order of the graph."""

    def __init__(self, model: ir.Model, taps: Sequence[Tap], store: Store) -> None:
        self._taps = taps
        self._store = store
        self._plan = schedule(model, [(tap.value, tap.node) for tap in taps])
        self._order = {node: number for number, node in enumerate(model.graph)}
        self._cut = 0

    def inputs(self, number: int) -> Iterator[NDArray[Any]]:
        """What comes through a tap, batch by batch; each tap is to be asked for once, in order."""
        tap, nodes = self._taps[number], self._plan.nodes
        here = self._order[tap.node]
        behind = (at for at, node in enumerate(nodes) if self._order[node] >= here)
        stop = next(behind, len(nodes))
        piece = _Piece(self._plan, self._cut, stop, tap)
        yield from piece.run(self._store)
        if piece.keeps:
            self._cut = stop


class Store:
    """Activations alive at the current cut, per batch, in memory or in files."""

    def __init__(self, batches: Sequence[Feed], memory_bytes: int) -> None:
        self._room = memory_bytes
        self._kept: list[dict[str, NDArray[Any] | Path]] = [dict(feed) for feed in batches]
        self._owned: set[str] = set()
        self._written = 0

    def __enter__(self) -> Store:
        self.folder = Path(tempfile.mkdtemp(prefix="sparsecc-"))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, batch: int, names: Iterable[str]) -> Feed:
        """The named arrays of one batch."""
        kept = self._kept[batch]
        return {name: _loaded(kept[name]) for name in names}

    def replace(self, batch: int, alive: set[str], new: Feed) -> None:
        """Keep only the ``alive`` arrays of one batch, and add ``new`` ones."""
        kept = self._kept[batch]
        for name in [name for name in kept if name not in alive]:
            old = kept.pop(name)
            if isinstance(old, Path):
                old.unlink(missing_ok=True)
            elif name in self._owned:
                self._room += old.nbytes
        for name, array in new.items():
            self._owned.add(name)
            kept[name] = self._placed(array)

    def _placed(self, array: NDArray[Any]) -> NDArray[Any] | Path:
        if array.nbytes <= self._room or array.dtype.hasobject:
            self._room -= array.nbytes
            return array
        self._written += 1
        path = self.folder / f"{self._written}.npy"
        np.save(path, array, allow_pickle=False)
        return path


def _loaded(kept: NDArray[Any] | Path) -> NDArray[Any]:
    if isinstance(kept, Path):
        loaded: NDArray[Any] = np.load(kept, mmap_mode="r", allow_pickle=False)
        return loaded
    return kept


class _Piece:
    """Nodes ``start`` to ``stop`` of a plan, run once per batch for one tap."""

    def __init__(self, plan: Schedule, start: int, stop: int, tap: Tap) -> None:
        self._plan = plan
        self._nodes = plan.nodes[start:stop]
        self._tap = tap
        self._before = [value.name or "" for value in plan.alive(start)]
        alive = plan.alive(stop)
        self._alive = {value.name or "" for value in alive}
        self._made = [value.name or "" for value in alive if plan.born[value] >= start]
        self.keeps = True
        """Whether the store stands at ``stop`` afterwards (not if a sequence is alive there)."""

    def run(self, store: Store) -> Iterator[NDArray[Any]]:
        """The tapped activation of every batch; leaves in the store what is alive at ``stop``."""
        if not self._nodes:
            for batch in range(len(store)):
                yield store.get(batch, [self._tap.value.name or ""])[self._tap.value.name or ""]
            return
        folder = Path(tempfile.mkdtemp(dir=store.folder))
        session: Any = None
        for batch in range(len(store)):
            feed = store.get(batch, self._before)
            try:
                if session is None:
                    session = open_segment(self._plan, self._nodes, feed, self._made, folder)
                results = self._fetch(session, feed)
            except CalibrationError:
                raise
            except Exception as error:
                raise CalibrationError(
                    f"the model does not run on calibration batch {batch}: {error}",
                    node=self._tap.name,
                    fix="check that the model runs on this input in ONNX Runtime",
                ) from error
            tapped = results.get(self._tap.value.name or "")
            if tapped is None:
                tapped = feed[self._tap.value.name or ""]
            if self.keeps:
                store.replace(batch, self._alive, results)
            yield tapped
        shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, session: Any, feed: Feed) -> Feed:
        if self.keeps:
            results = dict(zip(self._made, session.run(self._made, feed), strict=True))
            self.keeps = all(isinstance(each, np.ndarray) for each in results.values())
            if self.keeps:
                return results
        name = self._tap.value.name or ""
        return {name: session.run([name], feed)[0]} if name in self._made else {}
