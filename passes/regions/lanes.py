"""Which steps of a region have their tokens in the lanes: layout T64 of ``backends/kernels/t64.h``.

Products by blocks of a few rows want them there. What stands between two of these keeps the layout
where it can, so that tokens are turned at the ends of a chain and not at every product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels import attention

_PARTS = 3
"""Operands of ``attention`` that are tokens; the mask is not."""


def lay_out(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Step, ...]:
    """The steps with tokens in the lanes where that serves, and the turning between.

    Args:
        steps: In the order in which they run; a ``matmul`` whose last attribute is 1 wants lanes.
        outputs: Values for outside, which are row-major.
    """
    made = _Made({name for step in steps for name in step.outputs})
    for step in steps:
        made.add(step)
    for name in outputs:
        made.rows(name, steps[-1].name)
    return tuple(made.steps)


@dataclass
class _Made:
    """What has been laid out so far, and in which layouts each value is there."""

    inside: set[str]
    steps: list[Step] = field(default_factory=list)
    in_rows: set[str] = field(default_factory=set)
    in_lanes: set[str] = field(default_factory=set)

    def add(self, step: Step) -> None:
        """Append a step, and before it what turns the values it reads."""
        tokens = step.inputs[:_PARTS]
        if step.kind == "patches" and step.attributes[0]:
            self.steps.append(replace(step, outputs=tuple(map(_turned, step.outputs))))
            self.in_lanes.update(step.outputs)
            return
        if step.kind == "select" and tokens[0] in self.in_lanes:
            self.steps.append(replace(step, inputs=(_turned(tokens[0]),)))
            self.in_rows.update(step.outputs)
            return
        if not self._wants_lanes(step):
            read = tuple(self.rows(name, step.name) for name in step.inputs)
            self.steps.append(replace(step, inputs=read))
            self.in_rows.update(step.outputs)
            return
        turned = tuple(self.lanes(name, step.name) for name in tokens)
        rest = tuple(self.rows(name, step.name) for name in step.inputs[_PARTS:])
        results = tuple(map(_turned, step.outputs))
        self.steps.append(replace(step, inputs=(*turned, *rest), outputs=results))
        self.in_lanes.update(step.outputs)

    def rows(self, name: str, reader: str) -> str:
        """The value row-major."""
        if name in self.inside and name not in self.in_rows:
            self.steps.append(Step("from_t64", reader, (_turned(name),), (name,)))
            self.in_rows.add(name)
        return name

    def lanes(self, name: str, reader: str) -> str:
        """The value with its tokens in the lanes."""
        if name not in self.in_lanes:
            self.steps.append(Step("to_t64", reader, (name,), (_turned(name),)))
            self.in_lanes.add(name)
        return _turned(name)

    def _wants_lanes(self, step: Step) -> bool:
        there = [name in self.in_lanes for name in step.inputs[:_PARTS]]
        if step.kind == "matmul":
            return step.attributes[-1] == 1
        if step.kind == "attention":
            return all(there) and attention.read(step.attributes).fits_lanes
        if step.kind == "add":
            return any(there) and not step.constants
        return step.kind in ("layer_norm", "activation") and there[0]


def _turned(name: str) -> str:
    return f"{name}/t64"
