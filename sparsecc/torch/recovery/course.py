"""A teacher, its pupil, and what one lesson and one examination are."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecc import machine
from sparsecc.quality.calibration import HELD_OUT_SAMPLES, Calibration, Feed, first
from sparsecc.torch.interpreter import Interpreter
from sparsecc.torch.precision import fast_products
from sparsecc.torch.recovery.cuts import Cut, find_cuts
from sparsecc.torch.recovery.losses import Loss, Outputs, goal_of, relative_error
from sparsecc.torch.recovery.trained import trained_names, weight_names

PACE = 0.01
"""Step of a tensor relative to the root mean square of its values."""
LEAST_SIZE = 0.01
"""Root mean square that a tensor is taken to have at least: biases may start at zero."""


class Course:
    """The dense model teaches the pruned one.

    Args:
        dense: The teacher.
        pruned: A changed copy of it; it is not changed here.
        data: Batches of inputs, and what they should give.
        loss: What is learnt instead of the outputs of the teacher.
    """

    def __init__(
        self, dense: ir.Model, pruned: ir.Model, data: Calibration, loss: Loss | None
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = Interpreter(dense, device=self.device).requires_grad_(False)
        self.student = Interpreter(pruned, device=self.device).requires_grad_(False)
        names, weights = trained_names(pruned), weight_names(pruned)
        self.trained = {
            name: each.requires_grad_()
            for name, each in self.student.weights.items()
            if name in names
        }
        kept = {name: each.detach() != 0 for name, each in self.trained.items() if name in weights}
        self.masks = {name: mask for name, mask in kept.items() if not bool(mask.all())}
        self.cuts = _shared_cuts(dense, pruned)
        self.goal = goal_of(dense, loss, labelled=data.train_labels is not None)
        self._lessons = _with_labels(data.train, data.train_labels)
        examined = _with_labels(data.held_out, data.labels) or self._lessons
        count = len(first([feed for feed, _ in examined], HELD_OUT_SAMPLES))
        self._exam = [
            (feed, self._taught(self._tensors(feed), ()), truth) for feed, truth in examined[:count]
        ]
        self.forget()

    def learn(self, lesson: Sequence[int], factor: float, *, blockwise: bool) -> float:
        """One step of the optimiser on some batches; returns their loss.

        Args:
            lesson: Numbers of the batches.
            factor: On the step size.
            blockwise: Whether every stretch between cuts starts from the teacher's values.
        """
        total = 0.0
        for number in lesson:
            feed, truth = self._lessons[number]
            given = self._tensors(feed)
            wanted = self._taught(given, self.cuts)
            with self._quick():
                of = self._stretches if blockwise and self.cuts else self._whole
                loss = of(given, wanted, truth) / len(lesson)
            loss.backward()
            total += float(loss.detach())
        for name, mask in self.masks.items():
            gradient = self.trained[name].grad
            if gradient is not None:
                gradient.mul_(mask)
        for group in self.optimiser.param_groups:
            group["lr"] = group["pace"] * factor
        if np.isfinite(total):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return total

    def examine(self) -> float:
        """Mean loss of the outputs on the held-out batches."""
        with torch.no_grad():
            losses = [
                float(self.goal(self.student(self._tensors(feed)), wanted, truth))
                for feed, wanted, truth in self._exam
            ]
        return float(np.mean(losses))

    def weights_now(self) -> dict[str, Tensor]:
        """Copies of what is trained."""
        return {name: each.detach().clone() for name, each in self.trained.items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Give what is trained other values."""
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(weights[name])

    def forget(self) -> None:
        """Start with a new optimiser."""
        groups = [{"params": [p], "pace": PACE * _size(p)} for p in self.trained.values()]
        self.optimiser = torch.optim.Adam(groups, lr=0.0, fused=True)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments of the optimiser, by name."""
        found = {f"weight/{name}": each for name, each in self.trained.items()}
        for name, each in self.trained.items():
            for key, tensor in self.optimiser.state.get(each, {}).items():
                found[f"{key}/{name}"] = tensor
        paces = [group["pace"] for group in self.optimiser.param_groups]
        return found | {"paces": torch.tensor(paces, dtype=torch.float64)}

    def put_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where :meth:`state` was taken."""
        self.put({name: tensors[f"weight/{name}"] for name in self.trained})
        for name, each in self.trained.items():
            moments = {
                key: tensors[f"{key}/{name}"].to(each.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if moments:
                self.optimiser.state[each] = moments
        for group, pace in zip(self.optimiser.param_groups, tensors["paces"], strict=True):
            group["pace"] = float(pace)

    def _whole(self, feed: Mapping[str, Tensor], wanted: Outputs, truth: Any) -> Tensor:
        """The loss of the outputs, and the mean error at the cuts."""
        judged = list(dict.fromkeys(name for cut in self.cuts for name in cut.judged))
        ours = self.student(feed, [*self.student.outputs, *judged])
        loss = self.goal(ours, wanted, truth)
        if judged:
            loss = loss + torch.stack([relative_error(ours[n], wanted[n]) for n in judged]).mean()
        return loss

    def _stretches(self, feed: Mapping[str, Tensor], wanted: Outputs, truth: Any) -> Tensor:
        """Mean error of the values at each cut, and of the outputs, from the cut before it."""
        losses, given = [], dict(feed)
        for cut in self.cuts:
            judged = [name for name in cut.judged if name not in given]
            ours = self.student(given, judged)
            losses += [relative_error(ours[name], wanted[name]) for name in judged]
            given = {**feed, **{name: wanted[name] for name in cut.values}}
        losses.append(self.goal(self.student(given), wanted, truth))
        return torch.stack(losses).mean()

    def _taught(self, feed: Mapping[str, Tensor], cuts: Sequence[Cut]) -> Outputs:
        passed = dict.fromkeys(name for cut in cuts for name in cut.values)
        with torch.no_grad(), self._quick():
            answers: Outputs = self.teacher(feed, [*self.teacher.outputs, *passed])
        return answers

    def _tensors(self, feed: Feed) -> dict[str, Tensor]:
        return {name: _tensor(each).to(self.device) for name, each in feed.items()}

    def _quick(self) -> contextlib.AbstractContextManager[None]:
        """Products in bfloat16 where the processor is made for them; sums stay in float32."""
        if self.device.type == "cpu" and "avx512_bf16" not in machine.cpu_flags():
            return fast_products()
        half: contextlib.AbstractContextManager[None] = torch.autocast(
            self.device.type, torch.bfloat16
        )
        return half


def _with_labels(
    feeds: Sequence[Feed], labels: Sequence[NDArray[Any]] | None
) -> list[tuple[Feed, NDArray[Any] | None]]:
    return list(zip(feeds, labels or itertools.repeat(None), strict=False))


def _shared_cuts(dense: ir.Model, pruned: ir.Model) -> list[Cut]:
    """The cuts at which both models have values of the same shapes."""
    ours, theirs = _shapes(pruned), _shapes(dense)
    return [
        cut
        for cut in find_cuts(dense)
        if all(name in ours and ours[name] == theirs[name] for name in cut.values)
    ]


def _shapes(model: ir.Model) -> dict[str, ir.Shape | None]:
    return {v.name or "": v.shape for node in model.graph for v in node.outputs}


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _size(parameter: nn.Parameter) -> float:
    """Root mean square of the values that are not zero."""
    count = max(1, int(torch.count_nonzero(parameter)))
    mean: float = parameter.detach().square().sum().item() / count
    return max(LEAST_SIZE, math.sqrt(mean))


__all__ = ["Course"]
