"""Run a model up to some of its nodes, whose results the caller computes.

As in :mod:`sparsecc.quality.runner` the model runs in pieces, every piece once per batch; here the
nodes between the pieces are not run at all.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.quality.calibration import Feed
from sparsecc.quality.runner import MEMORY_BYTES, Store
from sparsecc.quality.segments import open_segment, reads, schedule


class Relay:
    """A model on its way from one node to the next, for several batches at once.

    Use it in a ``with`` block, and iterate: at each node, read :meth:`operands` of every batch and
    :meth:`put` what the node makes of them. Afterwards, :meth:`outputs` are the model's.

    Args:
        model: The model.
        stops: Nodes of its main graph with one output, in order, none of constants alone.
        feeds: The batches.
        memory_bytes: Activations kept in memory between pieces; the rest goes to disk.
    """

    def __init__(
        self,
        model: ir.Model,
        stops: Sequence[ir.Node],
        feeds: Sequence[Feed],
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        wanted = [(value, node) for node in stops for value in reads(node)]
        varying = schedule(model, wanted, to_end=True)
        self._plan = varying
        self._stops = [node for node in varying.nodes if node in {*stops}]
        self._store = Store(feeds, memory_bytes)
        self._batches = len(feeds)
        self._start = 0
        self._here: ir.Node | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._store)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[ir.Node]:
        """The nodes, each once its operands are there.

        Raises:
            CalibrationError: The model does not run on a batch.
        """
        for node in self._stops:
            self._run(self._plan.nodes.index(node), str(node.name))
            self._here = node
            yield node
        self._run(len(self._plan.nodes), str(self._plan.model.graph.name))

    def operands(self, batch: int) -> list[NDArray[Any]]:
        """What the node reads that is not constant, in the order of its inputs.

        Raises:
            CalibrationError: Some of it is not finite.
        """
        assert self._here is not None
        read = [value for value in self._here.inputs if value is not None]
        names = [str(value.name) for value in read if value.const_value is None]
        found = self._store.get(batch, names)
        if not all(np.isfinite(each).all() for each in found.values()):
            raise CalibrationError(
                f"calibration batch {batch} makes an activation NaN or infinite",
                node=str(self._here.name),
                fix="leave that batch out, or check the model on it",
            )
        return [found[name] for name in names]

    def put(self, batch: int, result: NDArray[Any]) -> None:
        """Say what the node makes of a batch."""
        assert self._here is not None
        alive = {str(value.name) for value in self._plan.alive(self._start)}
        self._store.replace(batch, alive, {str(self._here.outputs[0].name): result})

    def outputs(self, batch: int) -> list[NDArray[Any]]:
        """The model's outputs, once all nodes are behind."""
        values = self._plan.model.graph.outputs
        fixed = {value.name: value.const_value for value in values}
        found = self._store.get(batch, [str(name) for name, at in fixed.items() if at is None])
        return [
            np.asarray(found[str(name)]) if at is None else at.numpy() for name, at in fixed.items()
        ]

    def _run(self, stop: int, name: str) -> None:
        """Run all batches up to the node number `stop`; the next piece starts behind it."""
        nodes = self._plan.nodes[self._start : stop]
        before = [str(value.name) for value in self._plan.alive(self._start)]
        alive = {str(value.name): value for value in self._plan.alive(stop)}
        made = [n for n, value in alive.items() if self._plan.born[value] >= self._start]
        with tempfile.TemporaryDirectory(dir=self._store.folder) as folder:
            session: Any = None
            for batch in range(self._batches if made else 0):
                feed = self._store.get(batch, before)
                try:
                    if session is None:
                        session = open_segment(self._plan, nodes, feed, made, Path(folder))
                    results = dict(zip(made, session.run(made, feed), strict=True))
                except Exception as error:
                    raise CalibrationError(
                        f"the model does not run on calibration batch {batch}: {error}",
                        node=name,
                        fix="check that the model runs on this input in ONNX Runtime",
                    ) from error
                self._store.replace(batch, {*alive}, results)
        self._start = stop + 1


__all__ = ["Relay"]
