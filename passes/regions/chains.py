"""Chains: convolutions that the library streams through cache, row by row, as one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels.table import CHAIN_BESIDE, CHAIN_INPUTS, CHAIN_STAGES, ISAS
from sparsecc.cost import roofline
from sparsecc.passes.regions.unit import Unit
from sparsecc.targets import Target

POINTWISE, DEPTHWISE, WINDOW = "pointwise", "depthwise", "window"


def chained(units: Sequence[Unit], target: Target) -> list[Unit]:
    """The units, with convolutions that only feed each other joined into one unit.

    Args:
        units: In the order of the graph.
        target: Layers that get machine code of their own on it stay on their own.
    """
    open_chains: dict[str, list[Unit]] = {}
    chains: list[list[Unit]] = []
    rest: list[Unit] = []
    for unit in units:
        if _kind(unit, target) is None:
            rest.append(unit)
            continue
        chain = open_chains.pop(unit.step.inputs[0], None)
        if chain is None or len(chain) == CHAIN_STAGES:
            chain = []
            chains.append(chain)
        chain.append(unit)
        open_chains[unit.step.outputs[0]] = chain
    pieces = [piece for chain in chains for piece in _closed(chain)]
    for piece in pieces:
        rest += [_join(piece)] if _gains(piece, target) else piece
    place = {node: at for at, unit in enumerate(units) for node in unit.nodes}
    return sorted(rest, key=lambda unit: place[unit.nodes[0]])


def _values(chain: Sequence[Unit]) -> list[str]:
    """Names of the values of a chain, its input first."""
    return [chain[0].step.inputs[0], *(unit.step.outputs[0] for unit in chain)]


def _beside(chain: Sequence[Unit]) -> list[str]:
    """Names of the residuals that come from outside."""
    inside = _values(chain)
    return list(
        dict.fromkeys(name for unit in chain for name in unit.step.inputs[1:] if name not in inside)
    )


def _gains(piece: Sequence[Unit], target: Target) -> bool:
    """Whether a piece can be a chain and is better one: alone, only a window over 1x1 is."""
    if len(_beside(piece)) > CHAIN_INPUTS:
        return False
    return len(piece) > 1 or _kind(piece[0], target) == WINDOW


def _kind(unit: Unit, target: Target) -> str | None:
    """What a convolution is in a chain, or None when it can be in none."""
    if unit.step.kind != "conv":
        return None
    node = unit.nodes[0]
    sizes = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    weight = ops.read_packed(node)
    strides, pads, dilations, group = _window(unit.step)
    if not all(sizes):
        return None
    if roofline.generates(weight.block, group, None, target):
        return None
    kernel = list(weight.shape[1:3])
    if kernel == [1, 1] and strides == [1, 1] and not any(pads):
        return POINTWISE
    whole = weight.index.size == math.prod(weight.grid[:2])
    if group == weight.shape[0] and weight.shape[3] == 1 and whole:
        same = dilations == [1, 1] and _same(kernel, strides, pads, *sizes)
        return DEPTHWISE if same else None
    return WINDOW


def _window(step: Step) -> tuple[list[int], list[int], list[int], int]:
    """Strides, pads, dilations and group of a convolution."""
    a = list(step.attributes)
    return a[:2], a[2:6], a[6:8], a[8]


def _sizes(value: ir.Value | None) -> list[int]:
    """Height and width of an image; empty where they are not known."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return []
    sizes = [dim for dim in list(value.shape)[2:] if isinstance(dim, int)]
    return sizes if len(sizes) == 2 else []


def _same(
    kernel: list[int], strides: list[int], pads: list[int], x: list[int], y: list[int]
) -> bool:
    """Whether every instruction set has the kernel that reads rows of such images."""
    side, stride = kernel[0], strides[0]
    reach = side // 2
    if kernel != [side] * 2 or strides != [stride] * 2 or pads != [reach] * 4:
        return False
    if stride == 2 and (side != 3 or x[0] % 2 or x[1] % 2):
        return False
    if stride > 2 or side not in (3, 5):
        return False
    return all(y[1] <= isa.lanes or y[1] >= isa.lanes + reach for isa in ISAS.values())


def _closed(chain: list[Unit]) -> Iterator[list[Unit]]:
    """The chain, cut where a value inside is read by others too."""
    nodes = {unit.nodes[0] for unit in chain}
    for at, unit in enumerate(chain[:-1], 1):
        value = unit.nodes[0].outputs[0]
        if value.is_graph_output() or set(value.consumers()) - nodes:
            yield from _closed(chain[:at])
            yield from _closed(chain[at:])
            return
    yield chain


def _join(chain: Sequence[Unit]) -> Unit:
    values, beside = _values(chain), _beside(chain)
    place = {name: CHAIN_BESIDE + at for at, name in enumerate(beside)}
    place |= {name: at for at, name in enumerate(values)}
    attributes: list[int] = []
    for unit in chain:
        residual = place[unit.step.inputs[1]] if len(unit.step.inputs) > 1 else -1
        attributes += [*unit.step.attributes, residual]
    names = [str(unit.step.name) for unit in chain]
    step = Step(
        "chain",
        names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}",
        (values[0], *beside),
        (values[-1],),
        tuple(name for unit in chain for name in unit.step.constants),
        tuple(attributes),
    )
    return Unit(tuple(node for unit in chain for node in unit.nodes), step)
