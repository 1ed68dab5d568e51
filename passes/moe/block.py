"""The part of a model between tokens, the experts chosen for them, and what these make of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.moe.products import Product, product_of

_ROWS = """
    Cast Expand Flatten Gather GatherElements GatherND Identity Reshape Squeeze Tile Transpose
    Unsqueeze
"""
"""What picks, repeats and reorders tokens: the first input is them."""
_SIZES = """
    Add Cast Concat ConstantOfShape Div Equal Expand Gather Identity Mul Range Reshape Slice Squeeze
    Sub Unsqueeze Where
"""
"""What computes sizes, and what has them, from the outputs of Shape."""
_MOST_NODES = 200_000


@dataclass(frozen=True)
class Expert:
    """One expert, or all of them where their weights are stacked.

    Attributes:
        ups: The products of tokens, in the order of the graph.
        down: The product of what becomes of theirs.
    """

    ups: tuple[Product, ...]
    down: Product


def joins(chosen: ir.Value, made: set[ir.Node]) -> Iterator[ir.Value]:
    """Values that all which is computed from `chosen` goes through, the nearest first.

    Args:
        chosen: A value of the main graph.
        made: Grows by the nodes that compute from it, up to the value that was given last.
    """
    producer = chosen.producer()
    assert producer is not None
    graph = producer.graph
    index = {node: at for at, node in enumerate(graph or ())}
    waiting: list[tuple[int, ir.Node]] = []
    values = [chosen]
    while True:
        for value in values:
            for reader in value.consumers():
                if reader.graph is not graph:
                    return
                if reader not in made:
                    made.add(reader)
                    heapq.heappush(waiting, (index[reader], reader))
        if not waiting:
            return
        _, node = heapq.heappop(waiting)
        values = [output for output in node.outputs if output.uses() or output.is_graph_output()]
        if not waiting and len(values) == 1:
            yield values[0]


def above(start: Iterable[ir.Value | None], ends: Callable[[ir.Node], bool]) -> list[ir.Node]:
    """Nodes that compute values, up to and with those at which `ends` says so."""
    found: dict[ir.Node, None] = {}
    waiting = [value.producer() for value in start if value is not None]
    while waiting and len(found) < _MOST_NODES:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found[node] = None
        if not ends(node):
            waiting += [value.producer() for value in node.inputs if value is not None]
    return list(found)


def experts_above(result: ir.Value) -> list[Expert] | str | None:
    """The experts whose outputs come together in a value.

    Returns:
        Them, in the order of the graph; a clause that says why they are none; None where nothing
        looks like experts.
    """
    width = result.shape[-1] if result.shape else None
    downs = [each for each in _products(result) if each.size[0] == width]
    stacked = [each for each in downs if each.is_stacked]
    alone = [each for each in downs if not each.is_stacked]
    if len(stacked) == 1:
        downs = stacked
    elif stacked or len(alone) < 2:
        return None
    elif len({each.size for each in alone}) > 1:
        sizes = sorted({str(list(each.size)) for each in alone})
        return f"experts of unequal shapes: {', '.join(sizes)}"
    else:
        downs = alone
    read = [_products(each.tokens) for each in downs]
    counts: dict[ir.Node, int] = {}
    for each in read:
        for product in each:
            counts[product.node] = counts.get(product.node, 0) + 1
    found = []
    for down, products in zip(downs, read, strict=True):
        inner = down.size[1]
        ups = tuple(
            each
            for each in products
            if each.is_stacked == down.is_stacked
            and each.size[0] in (inner, 2 * inner)
            and counts[each.node] == 1
        )
        if not 1 <= len(ups) <= 2:
            return None
        found.append(Expert(ups, down))
    if len({tuple(up.size for up in expert.ups) for expert in found}) > 1:
        return "experts of unequal shapes"
    return found


def _products(value: ir.Value) -> list[Product]:
    """The nearest products with weights above a value, in the order of the graph."""
    found: dict[ir.Node, Product] = {}

    def ends(node: ir.Node) -> bool:
        product = product_of(node)
        if product is not None:
            found[node] = product
        return product is not None or is_op(node, "Shape", "TopK")

    above([value], ends)
    return [found[node] for node in _in_order(value, found)]


def _in_order(value: ir.Value, nodes: Collection[ir.Node]) -> list[ir.Node]:
    """Some of the nodes of a value's graph, in its order."""
    producer = value.producer()
    graph = producer.graph if producer is not None else None
    return [node for node in graph or () if node in nodes]


def sources(experts: list[Expert], made: set[ir.Node]) -> list[ir.Value]:
    """What the tokens of every expert may be rows of, the nearest first."""
    ways = [list(_way(up.tokens, made)) for expert in experts for up in expert.ups]
    common = set(ways[0]).intersection(*ways)
    return [value for value in ways[0] if value in common]


def _way(tokens: ir.Value, made: set[ir.Node]) -> Iterator[ir.Value]:
    at: ir.Value | None = tokens
    while at is not None:
        yield at
        node = at.producer()
        if is_op(node, *_ROWS.split()):
            assert node is not None
            at = node.inputs[0]
        elif is_op(node, "Mul", "Einsum", "Where"):
            # A factor by which tokens go to experts comes from what was chosen; tokens do not.
            assert node is not None
            own = [v for v in node.inputs if v and constant(v) is None and v.producer() not in made]
            at = own[0] if len(own) == 1 else None
        else:
            return


@dataclass(frozen=True)
class Block:
    """What is between.

    Attributes:
        nodes: Of it, in the order of the graph.
        given: Values that it reads and does not make: tokens and chosen experts among them.
        sized: Outputs of Shape that it reads, of values that it does not make.
    """

    nodes: tuple[ir.Node, ...]
    given: tuple[ir.Value, ...]
    sized: tuple[ir.Value, ...]


def block(result: ir.Value, cut: Iterable[ir.Value], inside: set[ir.Node]) -> Block:
    """What computes a value.

    Args:
        result: The value.
        cut: Values at which it begins.
        inside: Nodes that are part of it where they are met; of others only what computes sizes.
    """
    cut = set(cut)
    found: set[ir.Node] = set()
    given: dict[ir.Value, None] = {}
    sized: dict[ir.Value, None] = {}
    sizes: dict[ir.Node, bool] = {}
    waiting: list[ir.Value | None] = [result]
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if value is None or (constant(value) is not None and value not in cut):
            continue
        if value in cut or node is None or not (node in inside or _is_size(node, sizes)):
            given[value] = None
        elif is_op(node, "Shape") and node not in inside:
            sized[value] = None
        elif node not in found:
            found.add(node)
            waiting += node.inputs
    return Block(tuple(_in_order(result, found)), tuple(given), tuple(sized))


def _is_size(node: ir.Node, known: dict[ir.Node, bool]) -> bool:
    """Whether a node computes from sizes and constants alone."""
    if node not in known:
        known[node] = is_op(node, "Shape") or (
            is_op(node, *_SIZES.split())
            and all(
                value is None
                or constant(value) is not None
                or ((maker := value.producer()) is not None and _is_size(maker, known))
                for value in node.inputs
            )
        )
    return known[node]
