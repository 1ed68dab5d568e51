"""The cost model: time of a layer on a target with how far to trust it, before it is run."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparsecc.cost import roofline
from sparsecc.cost.correction import corrected
from sparsecc.cost.families import DENSE, Call, bare_ms, family_of
from sparsecc.cost.gpu import layers, weights
from sparsecc.cost.gpu.bounds import Task, ms_of
from sparsecc.cost.gpu.coefficients import Coefficients, assumed
from sparsecc.cost.rates import Kind, Sums
from sparsecc.cost.roofline import Work
from sparsecc.cost.table import Table, measured_as, own_path, read_table, shipped_path
from sparsecc.errors import CostTableError
from sparsecc.formats.blocks import Block
from sparsecc.targets import Target
from sparsecc.targets.base import Backend
from sparsecc.targets.cuda import arch_of_target

ROOFLINE = "roofline"
"""The name of a model that nothing was measured for."""
HEIGHTS = (16, 8, 4, 2, 1)
"""Rows of the blocks that a weight without zeros may be packed in; the first of equals is taken."""
WORTH_CHANGING = 0.9
"""A change is to take at most this share of the time before it: estimates are a tenth off."""
UNMEASURED_SPREAD = 0.3
"""Relative error of the bare roofline, one sigma."""
_MOST_TOLD = 2**16


@dataclass(frozen=True)
class Estimate:
    """A predicted time.

    Attributes:
        ms: On one thread; negative for what is saved.
        spread: Relative error, one sigma.
    """

    ms: float
    spread: float


def total(parts: Iterable[Estimate]) -> Estimate:
    """The time of all parts; errors of one model go together half of the way.

    Between errors that have nothing to do with each other, whose squares add, and one error that
    all share.
    """
    found = list(parts)
    ms = sum(part.ms for part in found)
    if not ms:
        return Estimate(0.0, 0.0)
    apart = math.sqrt(sum((part.ms * part.spread) ** 2 for part in found))
    together = sum(abs(part.ms) * part.spread for part in found)
    return Estimate(ms, (apart + together) / 2 / ms)


@dataclass(frozen=True)
class CostModel:
    """Times of layers on one target.

    Attributes:
        target: Where they run; with the figures that were measured, where they were.
        table: What was measured, or None.
        name: Of the model, for plans: a hash of the table, or ``roofline``.
    """

    target: Target
    table: Table | None
    name: str
    _told: dict[Call, Estimate] = field(default_factory=dict, init=False, repr=False, compare=False)

    def dense(self, work: Work) -> Estimate:
        """The layer with its whole weight.

        In ONNX Runtime it is one node of a session; where none is there, a kernel of ours, on a
        GPU too, but for convolutions.
        """
        if self.is_gpu:
            ours = weights.whole(work, self._arch)
            return self.library(work) if ours is None else self.task(ours)
        if self.target.stands_alone:
            return self.sparse(work, *self.packed_whole(work), beside=True)
        return self._estimate(Call(work, DENSE, 0))

    def library(self, work: Work) -> Estimate:
        """The same on a GPU in the kernel of a library, as torch has it."""
        return self.task(*layers.dense(work, self._arch))

    def packed_whole(self, work: Work) -> tuple[Block, int]:
        """The blocks that a weight without zeros is best packed in, and how many there are."""
        per_group = work.rows // work.groups
        heights = [each for each in HEIGHTS if work.groups == 1 or per_group % each == 0]
        packings = [((each, 1), math.ceil(work.rows / each) * work.cols) for each in heights]
        return min(packings, key=lambda packing: self.sparse(work, *packing, beside=True).ms)

    def sparse(
        self, work: Work, block: Block, blocks: int, *, beside: bool = False, halved: bool = False
    ) -> Estimate:
        """The layer with ``blocks`` stored r×c blocks in our kernels.

        Where a GPU has none for it, it takes for ever.

        Args:
            work: The layer.
            block: Rows and columns of a block.
            blocks: How many are stored.
            beside: Whether other layers of the library stand beside it, in one region: then it is
                no node of its own, and nothing changes its layout.
            halved: Whether single weights are stored, at most two of four inputs (2:4): GPUs have
                matrix units for that.
        """
        if self.is_gpu:
            found = weights.tasks(work, block, blocks, self._arch, halved)
            return self.task(*found) if found else Estimate(math.inf, UNMEASURED_SPREAD)
        if self.table is None:
            ms = roofline.sparse_ms(work, block, blocks, self.target, beside=beside)
            return Estimate(ms, UNMEASURED_SPREAD)
        inside = self._estimate(Call(work, block, blocks))
        border = 0.0 if beside else roofline.border_ms(work, block)
        return Estimate(inside.ms + border, inside.spread)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks of zeros that a GPU has kernels for; empty for other targets."""
        return weights.blocks_served() if self.is_gpu else ()

    def form(self, work: Work, block: Block, blocks: int, *, halved: bool = False) -> str:
        """The form of a weight of stored blocks that a GPU is quickest with."""
        return self.quickest(weights.tasks(work, block, blocks, self._arch, halved)).family

    def why_not(self, work: Work) -> str:
        """Why no kernel of ours can run a layer, whatever its zeros are, or ""."""
        return weights.why_not(work) if self.is_gpu else ""

    @property
    def is_gpu(self) -> bool:
        """Whether kernels for GPUs are meant."""
        return self.target.family == "cuda"

    def task(self, *tasks: Task) -> Estimate:
        """The quickest of the launches that could do the same on a GPU.

        Raises:
            TargetError: There are no kernels for its architecture.
        """
        task = self.quickest(tasks)
        spread = self._known.reached[task.family].spread
        return Estimate(ms_of(task, self.target, self._known), spread)

    def quickest(self, tasks: Iterable[Task]) -> Task:
        """That task itself.

        Raises:
            TargetError: As :meth:`task`.
        """
        return min(tasks, key=lambda task: ms_of(task, self.target, self._known))

    @property
    def _arch(self) -> str:
        return arch_of_target(self.target)

    @property
    def _known(self) -> Coefficients:
        known = self.table.gpu if self.table else None
        return known or assumed(self._arch)

    def step(self, kind: Kind, sums: Sums) -> Estimate | None:
        """A step that is no layer, as ``rates.Rate`` counts it; None where it is not known."""
        rate = self.table.rates.get(kind) if self.table else None
        return None if rate is None else Estimate(rate.ms(sums), rate.spread)

    def streamed_ms(self, sums: Sums) -> float:
        """What streaming values from layer to layer of a chain saves, ms (``chains.streamed``)."""
        saved = self.step("streamed", sums)
        return 0.0 if saved is None else saved.ms

    def _estimate(self, call: Call) -> Estimate:
        """Told again where it was before: searches ask for the same shapes thousands of times."""
        if call not in self._told:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[call] = self._computed(call)
        return self._told[call]

    def _computed(self, call: Call) -> Estimate:
        known = self.table.corrections if self.table else {}
        correction = known.get(family_of(call, self.target))
        if correction is None:
            return Estimate(bare_ms(call, self.target), UNMEASURED_SPREAD)
        return Estimate(*corrected(correction, call, self.target))


def cost_model(target: Target) -> CostModel:
    """The best model there is for a target.

    That of the user's own calibration, else of the table that comes with sparsecc, else the bare
    roofline. A table of other kernels or of another target of that name is passed over with a
    warning.
    """
    measured = measured_as(target)
    own = own_path(measured)
    changed = own.stat().st_mtime_ns if own.is_file() else 0
    return _loaded(measured, own, changed)


@functools.lru_cache(maxsize=64)
def _loaded(target: Target, own: Path, changed: int) -> CostModel:
    paths = [own] if changed else []
    shipped = shipped_path(target)
    for path in (*paths, *([shipped] if shipped else [])):
        try:
            return model_of(read_table(path, target), target.backend)
        except CostTableError as error:
            if path == own:
                warnings.warn(f"estimates do without {error}", RuntimeWarning, stacklevel=3)
    return CostModel(target, None, ROOFLINE)


def model_of(table: Table, backend: Backend = "onnxruntime") -> CostModel:
    """The model of a table; kernels take the same time in every backend."""
    hardware = dataclasses.replace(table.hardware, backend=backend)
    return CostModel(hardware, table, table.name)
