"""Branches and loops: ops with graphs inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecc.torch.ops.table import Function, NodeView, Op


def _as_outputs(results: Sequence[Any]) -> Any:
    """As a function of a node gives them: one value itself, several in a tuple."""
    return results[0] if len(results) == 1 else tuple(results)


def _if(node: NodeView) -> Function:
    node.ignore("then_branch", "else_branch")
    then, other = node.bodies["then_branch"], node.bodies["else_branch"]
    return lambda condition, *extras: _as_outputs((then if condition else other)((), extras))


def _loop(node: NodeView) -> Function:
    node.ignore("body")
    body, inputs = node.bodies["body"], len(node.node.inputs)
    states = inputs - 2
    device = node.device

    def loop(trips: Tensor | None, condition: Tensor | None, *rest: Any) -> Any:
        state, extras = list(rest[:states]), rest[states:]
        limit = None if trips is None else int(trips)
        goes_on = True if condition is None else bool(condition)
        scans: list[list[Tensor]] = [[] for _ in range(len(node.node.outputs) - states)]
        step = 0
        while goes_on and (limit is None or step < limit):
            number = torch.tensor(step, device=device)
            again, *made = body((number, torch.tensor(True, device=device), *state), extras)
            state = made[:states]
            for scan, each in zip(scans, made[states:], strict=True):
                scan.append(each)
            goes_on = bool(again)
            step += 1
        return _as_outputs([*state, *(_stacked(scan, 0, False, device) for scan in scans)])

    return loop


def _stacked(parts: list[Tensor], axis: int, backwards: bool, device: torch.device) -> Tensor:
    if not parts:
        return torch.zeros(0, device=device)
    return torch.stack(parts[::-1] if backwards else parts, axis)


def _scan(node: NodeView) -> Function:
    if node.opset < 9:
        raise node.refuse("Scan over a batch is older than opset 9")
    node.ignore("body")
    body, scanned = node.bodies["body"], node.get("num_scan_inputs")
    states = len(node.node.inputs) - scanned
    made = len(node.node.outputs) - states
    axes = node.get("scan_input_axes", [0] * scanned)
    backwards = node.get("scan_input_directions", [0] * scanned)
    out_axes = node.get("scan_output_axes", [0] * made)
    out_backwards = node.get("scan_output_directions", [0] * made)
    device = node.device

    def scan(*inputs: Tensor) -> Any:
        state, extras = list(inputs[:states]), inputs[states + scanned :]
        rows = [
            x.unbind(axis)[:: -1 if back else 1]
            for x, axis, back in zip(inputs[states:], axes, backwards, strict=False)
        ]
        found: list[list[Tensor]] = [[] for _ in range(made)]
        for each in zip(*rows, strict=True):
            results = body((*state, *each), extras)
            state = list(results[:states])
            for parts, result in zip(found, results[states:], strict=True):
                parts.append(result)
        outputs = [
            _stacked(parts, axis, bool(back), device)
            for parts, axis, back in zip(found, out_axes, out_backwards, strict=True)
        ]
        return _as_outputs([*state, *outputs])

    return scan


OPS: dict[str, Op] = {
    "If": Op(_if, host=(0,)),
    "Loop": Op(_loop, host=(0, 1)),
    "Scan": Op(_scan),
}
