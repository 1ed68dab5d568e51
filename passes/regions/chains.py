"""Chains: convolutions that the library streams through cache, row by row, as one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels.table import CHAIN_STAGES, ISAS
from sparsecc.cost import roofline
from sparsecc.passes.regions.units import Unit
from sparsecc.targets import Target

POINTWISE, DEPTHWISE, OTHER = "pointwise", "depthwise", "other"


def chained(units: Sequence[Unit], target: Target) -> list[Unit]:
    """The units, with convolutions that only feed each other joined into one unit.

    1x1 and depthwise convolutions follow each other in a chain; any convolution may begin one.
    Where a layer adds what an earlier layer of its chain made, the chain holds that too.

    Args:
        units: In the order of the graph.
        target: Layers that get machine code of their own on it stay on their own.
    """
    open_chains: dict[str, list[Unit]] = {}
    chains: list[list[Unit]] = []
    rest: list[Unit] = []
    for unit in units:
        kind = _kind(unit, target)
        chain = open_chains.get(unit.step.inputs[0]) if kind in (POINTWISE, DEPTHWISE) else None
        if kind is None:
            rest.append(unit)
        elif chain is not None and len(chain) < CHAIN_STAGES and _residual_fits(unit, chain):
            del open_chains[unit.step.inputs[0]]
            chain.append(unit)
            open_chains[unit.step.outputs[0]] = chain
        elif len(unit.step.inputs) == 1:
            chains.append([unit])
            open_chains[unit.step.outputs[0]] = chains[-1]
        else:
            rest.append(unit)
    pieces = [piece for chain in chains for piece in _closed(chain)]
    joined = [_join(piece) if len(piece) > 1 else piece[0] for piece in pieces]
    place = {node: at for at, unit in enumerate(units) for node in unit.nodes}
    return sorted((*rest, *joined), key=lambda unit: place[unit.nodes[0]])


def _kind(unit: Unit, target: Target) -> str | None:
    """What a convolution may be in a chain, or None when it can be in none."""
    if unit.step.kind != "conv":
        return None
    node = unit.nodes[0]
    x, y = node.inputs[0], node.outputs[0]
    sizes = _sizes(x), _sizes(y)
    if not all(sizes):
        return None
    weight = ops.read_packed(node)
    group = node.attributes["group"].as_int()
    if roofline.generates(weight.block, group, None, target):
        return None
    strides, pads = (list(node.attributes[name].as_ints()) for name in ("strides", "pads"))
    kernel = list(weight.shape[1:3])
    if kernel == [1, 1] and strides == [1, 1] and not any(pads):
        return POINTWISE
    whole = weight.index.size == math.prod(weight.grid[:2])
    if group == weight.shape[0] and weight.shape[3] == 1 and whole:
        plain = list(node.attributes["dilations"].as_ints()) == [1, 1]
        return DEPTHWISE if plain and _same(kernel, strides, pads, *sizes) else None
    return OTHER


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


def _values(chain: Sequence[Unit]) -> list[str]:
    """Names of the values of a chain, its input first."""
    return [chain[0].step.inputs[0], *(unit.step.outputs[0] for unit in chain)]


def _residual_fits(unit: Unit, chain: Sequence[Unit]) -> bool:
    return len(unit.step.inputs) == 1 or unit.step.inputs[1] in _values(chain)


def _closed(chain: list[Unit]) -> Iterator[list[Unit]]:
    """The chain, cut where a value inside is read by others too."""
    nodes = {unit.nodes[0] for unit in chain}
    for at, unit in enumerate(chain[:-1]):
        value = unit.nodes[0].outputs[0]
        if value.is_graph_output() or set(value.consumers()) - nodes:
            yield from _closed(chain[: at + 1])
            rest = chain[at + 1 :]
            fits = [_residual_fits(each, rest[:n] or rest[:1]) for n, each in enumerate(rest)]
            last = fits.index(False) if False in fits else len(rest)
            yield from _closed(rest[:last]) if last else ()
            yield from ([each] for each in rest[last:])
            return
    yield chain


def _join(chain: Sequence[Unit]) -> Unit:
    values = _values(chain)
    attributes: list[int] = []
    for unit in chain:
        residual = values.index(unit.step.inputs[1]) if len(unit.step.inputs) > 1 else -1
        attributes += [*unit.step.attributes, residual]
    step = Step(
        "chain",
        f"{chain[0].step.name} ... {chain[-1].step.name}",
        (values[0],),
        (values[-1],),
        tuple(name for unit in chain for name in unit.step.constants),
        tuple(attributes),
    )
    return Unit(tuple(node for unit in chain for node in unit.nodes), step)
