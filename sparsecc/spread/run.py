"""One of the processes that run a model together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.compiled import Compiled, load
from sparsecc.errors import ModelError, TargetError
from sparsecc.spread.schedule import FILE_NAME, SCHEDULE_FILE, Call, Exchange, experts_folder

Array = NDArray[Any]
_WRONG = -1
"""Number of tokens that says: something is wrong here, nobody goes on."""


class Worker:
    """Runs the parts of a model on the inputs of this process, together with the others.

    All processes of the default group of ``torch.distributed`` make one, and call it as often as
    the others do, each with inputs of its own: the batch is spread over them as the experts are.

    Args:
        folder: What :func:`sparsecc.spread.spread` wrote.

    Raises:
        ArtifactError: The folder is none, or a part of it is broken.
        TargetError: There are not as many processes as the model is for.
    """

    def __init__(self, folder: str | Path) -> None:
        import torch.distributed as dist

        path = Path(folder)
        self.schedule = SCHEDULE_FILE.load(path / FILE_NAME)
        if dist.get_world_size() != self.schedule.ranks:
            raise TargetError(
                f"{path} is for {self.schedule.ranks} processes, and there are "
                f"{dist.get_world_size()}",
                fix="start as many, or spread the model over these",
            )
        self.rank = dist.get_rank()
        own = experts_folder(path, self.rank)
        self.parts: dict[str, Compiled] = {
            step.part: load((path if isinstance(step, Call) else own) / step.part)
            for step in self.schedule.steps
        }

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, for inputs by name.

        Raises:
            ModelError: Inputs do not fit the model, or a token chose an expert that there is not,
                in this process or in another.
        """
        if set(feeds) != set(self.schedule.inputs):
            raise ModelError(
                f"got the inputs {sorted(feeds)}, the model wants {list(self.schedule.inputs)}",
                fix="pass every input once, by its name",
            )
        values = dict(feeds)
        for step in self.schedule.steps:
            if isinstance(step, Call):
                made = self.parts[step.part].run({name: values[name] for name in step.inputs})
                values |= {name: made[name] for name in step.outputs}
            else:
                values[step.output] = self._mixture(step, *(values[name] for name in step.read))
        return {name: values[name] for name in self.schedule.outputs}

    def _mixture(self, step: Exchange, tokens: Array, experts: Array, gates: Array) -> Array:
        """Every copy of a token to the process of its expert, and the sum of what comes back."""
        owners = np.array(step.owners)
        own = np.array([np.sum(owners[:e] == owner) for e, owner in enumerate(owners)])
        chosen = experts.ravel()
        right = not chosen.size or bool((chosen.min() >= 0) & (chosen.max() < len(owners)))
        to = owners[chosen] if right else np.zeros(0, np.int64)
        sent = np.bincount(to, minlength=self.schedule.ranks) if right else None
        received = _counts(sent, self.schedule.ranks)
        if sent is None or (received < 0).any():
            raise ModelError(
                f"a token chose an expert outside of 0 … {len(owners) - 1}"
                + ("" if sent is None else " in another process"),
                node=step.node,
                fix="check the router of the model",
            )
        order = np.argsort(to, kind="stable")
        token = order // experts.shape[1]
        there = [tokens[token], own[chosen[order], None], gates.ravel()[order, None]]
        here = [_sent(each, sent, received) for each in there]
        made = here[0]
        if len(made):
            names = ("tokens", "experts", "gates")
            made = self.parts[step.part].run(dict(zip(names, here, strict=True)))["answers"]
        answers = _sent(made, received, sent)
        total = np.zeros_like(tokens)
        np.add.at(total, token, answers)
        return total


def _counts(sent: Array | None, ranks: int) -> Array:
    """How many rows come from each process; below zero from one where something is wrong."""
    import torch
    import torch.distributed as dist

    mine = torch.full((ranks,), _WRONG) if sent is None else torch.from_numpy(sent)
    received = torch.empty(ranks, dtype=torch.int64)
    dist.all_to_all_single(received, mine.to(torch.int64))
    return np.asarray(received.numpy())


def _sent(rows: Array, sent: Array, received: Array) -> Array:
    """Rows to and from each process, so many."""
    import torch
    import torch.distributed as dist

    mine = torch.from_numpy(np.ascontiguousarray(rows))
    out = mine.new_empty((int(received.sum()), *mine.shape[1:]))
    dist.all_to_all_single(out, mine, received.tolist(), sent.tolist())
    return np.asarray(out.numpy())


__all__ = ["Worker"]
