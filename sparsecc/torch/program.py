"""Steps of a graph, and the straight-line programs that are cut out of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecc.errors import ModelError, first_line


@dataclasses.dataclass(frozen=True)
class Step:
    """One node, ready to run.

    Attributes:
        name: Of the node.
        op_type: Of the node.
        function: See :data:`sparsecc.torch.ops.table.Function`.
        inputs: Names of what it reads, "" for an absent input.
        outputs: Names of what it makes, "" for what nobody wants.
        static: Whether equal inputs give equal outputs.
    """

    name: str
    op_type: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    static: bool = True


def needed(steps: Sequence[Step], given: Iterable[str], wanted: Iterable[str]) -> list[Step]:
    """The steps between what is given and what is wanted, in order."""
    missing, found = set(wanted) - set(given), []
    given = set(given)
    for step in reversed(steps):
        if missing.intersection(step.outputs):
            found.append(step)
            missing.difference_update(step.outputs)
            missing.update(name for name in step.inputs if name and name not in given)
    return found[::-1]


class Program:
    """A fixed list of steps from some values to others.

    What depends on constants alone is computed once, here. Everything else is forgotten as soon
    as its last reader has run.

    Args:
        steps: All of a graph, in order; those that are not needed are left out.
        given: Names of the values that every run is given, in order.
        wanted: Names of the values that a run returns, in order.
        constants: Name → tensor of what is always the same.

    Raises:
        ModelError: A value is neither given nor made by a step.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        given: Sequence[str],
        wanted: Sequence[str],
        constants: Mapping[str, Tensor],
    ) -> None:
        chosen = needed(steps, given, wanted)
        fixed = {
            name: constants[name]
            for name in _read(chosen, wanted)
            if name in constants and name not in given
        }
        chosen = _run_static(chosen, fixed)
        self.steps = chosen
        self._slots: dict[str, int] = {"": 0}
        for name in given:
            self._slots[name] = len(self._slots)
        self._given = len(self._slots)
        read = set(_read(chosen, wanted))
        kept = [name for name in fixed if name in read and name not in self._slots]
        for name in kept:
            self._slots[name] = len(self._slots)
        for step in chosen:
            for name in step.outputs:
                self._slots.setdefault(name, len(self._slots))
        for name in read:
            if name not in self._slots:
                raise ModelError(
                    f"the value {name!r} is needed, and neither fed nor made by a node",
                    fix="feed it, or feed the values behind it",
                )
        self._template: list[Any] = [None] * len(self._slots)
        for name in kept:
            self._template[self._slots[name]] = fixed[name]
        self._wanted = [self._slots[name] for name in wanted]
        self._code = self._compiled(wanted)

    def _compiled(self, wanted: Sequence[str]) -> list[tuple[Any, ...]]:
        """Per step: function, slots it reads, slot or slots it fills, slots to empty after it."""
        last: dict[str, int] = {}
        for number, step in enumerate(self.steps):
            for name in (*step.inputs, *step.outputs):
                last[name] = number
        for name in ("", *wanted):
            last.pop(name, None)
        dead: dict[int, list[int]] = {}
        for name, number in last.items():
            dead.setdefault(number, []).append(self._slots[name])
        code = []
        for number, step in enumerate(self.steps):
            outputs = tuple(self._slots[name] for name in step.outputs)
            code.append(
                (
                    step.function,
                    tuple(self._slots[name] for name in step.inputs),
                    outputs[0] if len(outputs) == 1 else outputs,
                    tuple(dead.get(number, ())),
                )
            )
        return code

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Run it.

        Raises:
            ModelError: A step failed; names the node, with torch's error attached.
        """
        values = self._template.copy()
        values[1 : self._given] = given
        del given
        at = 0
        try:
            for at, (function, inputs, outputs, dead) in enumerate(self._code):  # noqa: B007
                result = function(*[values[slot] for slot in inputs])
                if outputs.__class__ is int:
                    values[outputs] = result
                else:
                    for slot, each in zip(outputs, result, strict=False):
                        values[slot] = each
                    values[0] = None
                for slot in dead:
                    values[slot] = None
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise _named(self.steps[at], error) from error
        return tuple(values[slot] for slot in self._wanted)


def _named(step: Step, error: Exception) -> Exception:
    """The error of a step with its node; a lack of memory stays one, so that it can be caught."""
    if isinstance(error, torch.OutOfMemoryError):
        assert isinstance(error, Exception)
        error.add_note(f"in {step.op_type} at node {step.name!r}")
        return error
    return ModelError(
        f"{step.op_type} fails in the torch interpreter: {first_line(error)}",
        node=step.name or None,
        fix="check shapes and types of what is fed against the model's inputs",
    )


def _read(steps: Iterable[Step], wanted: Iterable[str]) -> list[str]:
    """Every name that is read, once, in order."""
    names = dict.fromkeys(name for step in steps for name in step.inputs if name)
    names.update(dict.fromkeys(wanted))
    return list(names)


def _run_static(steps: Sequence[Step], fixed: dict[str, Tensor]) -> list[Step]:
    """Run the steps that read constants alone, add their results to `fixed`; return the rest."""
    rest = []
    for step in steps:
        if not step.static or not all(name in fixed for name in step.inputs if name):
            rest.append(step)
            continue
        try:
            with torch.inference_mode(False), torch.no_grad():
                result = step.function(*[fixed[name] if name else None for name in step.inputs])
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise _named(step, error) from error
        results = (result,) if len(step.outputs) == 1 else result
        fixed.update(zip(step.outputs, results, strict=False))
    return rest
