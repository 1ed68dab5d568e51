"""Chains: convolutions that the library streams through cache, row by row, as one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels.table import CHAIN_BESIDE, CHAIN_INPUTS, CHAIN_STAGES, ISAS
from sparsecc.cost import roofline
from sparsecc.passes import edit
from sparsecc.passes.regions.unit import Unit
from sparsecc.targets import Target

POINTWISE, DEPTHWISE, WINDOW = "pointwise", "depthwise", "window"


def chained(units: Sequence[Unit], target: Target) -> list[Unit]:
    """The units, with convolutions that only feed each other joined into one unit.

    Args:
        units: In the order of the graph.
        target: Windows over 1x1 that get machine code of their own on it stay on their own.
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
    gates = {unit.step.outputs[0]: unit for unit in rest if unit.step.kind == "scale"}
    for piece in pieces:
        gate = gates.get(piece[0].step.inputs[0])
        if gate is not None and (_generated(piece[0], target) or not _multiplies_less(gate, piece)):
            gate = None
        if _gains(piece, gate, target):
            rest = [unit for unit in rest if unit is not gate] + [_join(piece, gate)]
        else:
            rest += piece
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


def _gains(piece: Sequence[Unit], gate: Unit | None, target: Target) -> bool:
    """Whether a piece can be a chain and is better one: alone, only a window over 1x1 is."""
    if len(_beside(piece)) + (gate is not None) > CHAIN_INPUTS:
        return False
    return len(piece) > 1 or gate is not None or _kind(piece[0], target) == WINDOW


def _multiplies_less(gate: Unit, piece: Sequence[Unit]) -> bool:
    """Whether factors for channels are better multiplied by the weights that read these."""
    scaled, first = gate.nodes[0].outputs[0], piece[0].nodes[0]
    weight, (*_, group) = ops.read_packed(first), _window(piece[0].step)
    sides = [side or roofline.UNKNOWN_SIDE for side in _sizes(scaled)]
    floats = weight.shape[3] * group * math.prod(sides)
    return edit.sole_consumer(scaled) is first and weight.values.size < floats


def _kind(unit: Unit, target: Target) -> str | None:
    """What a convolution is in a chain, or None when it can be in none."""
    if unit.step.kind != "conv":
        return None
    node = unit.nodes[0]
    sizes = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    weight = ops.read_packed(node)
    strides, pads, dilations, group = _window(unit.step)
    if not all(sizes) or edit.is_of_pixels(node):  # a pixel fills no lanes: its outputs do
        return None
    kernel = list(weight.shape[1:3])
    if kernel == [1, 1] and strides == [1, 1] and not any(pads):
        return POINTWISE
    whole = weight.index.size == math.prod(weight.grid[:2])
    if group == weight.shape[0] and weight.shape[3] == 1 and whole:
        same = dilations == [1, 1] and _same(kernel, strides, pads, *sizes)
        return DEPTHWISE if same else None
    return None if _generated(unit, target) else WINDOW


def _generated(unit: Unit, target: Target) -> bool:
    """Whether a convolution gets machine code of its own."""
    block = ops.read_packed(unit.nodes[0]).block
    return roofline.generates(block, _window(unit.step)[3], None, target)


def _window(step: Step) -> tuple[list[int], list[int], list[int], int]:
    """Strides, pads, dilations and group of a convolution."""
    a = list(step.attributes)
    return a[:2], a[2:6], a[6:8], a[8]


def _sizes(value: ir.Value | None) -> list[int | None]:
    """Height and width of an image, None where they are open; empty for what is no image."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return []
    return [dim if isinstance(dim, int) else None for dim in list(value.shape)[2:]]


def _same(
    kernel: list[int], strides: list[int], pads: list[int], x: list[int | None], y: list[int | None]
) -> bool:
    """Whether every instruction set reads rows of such images where they lie, sizes known or not.

    Where an open size turns out not to be one of these, the library copies rows as for any window.
    """
    side, stride = kernel[0], strides[0]
    reach = side // 2
    if kernel != [side] * 2 or strides != [stride] * 2 or pads != [reach] * 4:
        return False
    if stride > 2 or side not in (3, 5):
        return False
    if stride == 2 and any(size is not None and size % 2 for size in x):
        return False
    width = y[1]
    lanes = [isa.lanes for isa in ISAS.values()]
    return width is None or all(width <= n or width >= n + reach for n in lanes)


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


def _join(chain: Sequence[Unit], gate: Unit | None) -> Unit:
    values, beside = _values(chain), _beside(chain)
    if gate is not None:
        values[0], factors = gate.step.inputs
        beside = list(dict.fromkeys([*beside, factors]))
    place = {name: at for at, name in enumerate(values)}
    place |= {name: CHAIN_BESIDE + at for at, name in enumerate(beside)}
    attributes: list[int] = []
    for unit in chain:
        residual = place[unit.step.inputs[1]] if len(unit.step.inputs) > 1 else -1
        attributes += [*unit.step.attributes, residual]
    attributes.append(-1 if gate is None else place[factors])
    names = [str(unit.step.name) for unit in chain]
    step = Step(
        "chain",
        names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}",
        (values[0], *beside),
        (values[-1],),
        tuple(name for unit in chain for name in unit.step.constants),
        tuple(attributes),
    )
    units = chain if gate is None else (gate, *chain)
    return Unit(tuple(node for unit in units for node in unit.nodes), step)
