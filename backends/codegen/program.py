"""Programs of regions: steps over named values, and the numbers the kernel library reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.kernels.table import STEPS, steps_key

FORMAT = 1


@dataclass(frozen=True)
class Step:
    """One step of a region.

    Attributes:
        kind: One of ``STEPS`` in ``backends/kernels/table.py``.
        name: Name of the layer, for error messages.
        inputs: Names of the values it reads.
        outputs: Names of the values it makes.
        constants: Names of its constants, in the order the kind wants.
        attributes: Its integers, in the order the kind wants.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()
    attributes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """The steps of a region, every value made once and before it is read.

    Attributes:
        inputs: Values from outside.
        outputs: Values for outside.
        steps: In the order in which they run.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of all constants, each once, in the order of first use."""
        return tuple(dict.fromkeys(itertools.chain(*(step.constants for step in self.steps))))

    def encode(self) -> NDArray[np.int64]:
        """The numbers of ``docs/formats.md``, "Programs of regions"."""
        made = itertools.chain(*(step.outputs for step in self.steps))
        values = {name: at for at, name in enumerate((*self.inputs, *made))}
        constants = {name: at for at, name in enumerate(self.constants)}
        numbers = [FORMAT, steps_key(), len(values), len(self.inputs), len(self.outputs)]
        numbers += [len(self.steps), *(values[name] for name in self.outputs)]
        for step in self.steps:
            numbers += _encode(step, values, constants)
        return np.array(numbers, np.int64)

    def names(self) -> NDArray[np.uint8]:
        """The layers' names, each ended by a zero."""
        text = "".join(step.name.replace("\0", "") + "\0" for step in self.steps)
        return np.frombuffer(text.encode(), np.uint8)


def _encode(step: Step, values: dict[str, int], constants: dict[str, int]) -> Sequence[int]:
    ends = (step.inputs, step.outputs, step.constants, step.attributes)
    return [
        STEPS.index(step.kind),
        *(len(each) for each in ends),
        *(values[name] for name in (*step.inputs, *step.outputs)),
        *(constants[name] for name in step.constants),
        *step.attributes,
    ]
