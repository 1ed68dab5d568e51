"""Terms of what ops make that pick, repeat, or multiply by letters."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.terms import Term, Terms, times


def best_ones(node: ir.Node, inputs: list[Terms | None]) -> list[Terms | None]:
    """Of a TopK: the values and their places."""
    x, counts = inputs[0], constant(node.inputs[1])
    if x is None or counts is None:
        return [None] * len(node.outputs)
    axis = node.attributes.get_int("axis", -1) % len(x)
    picked = (*x[:axis], int(counts.reshape(-1)[0]), *x[axis + 1 :])
    return [picked] * len(node.outputs)


def tiled(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    """Of a Tile by constants."""
    x, repeats = inputs[0], constant(node.inputs[1])
    if x is None or repeats is None or len(repeats) != len(x):
        return None
    return tuple(times(term, int(count)) for term, count in zip(x, repeats, strict=True))


def einsum(node: ir.Node, inputs: list[Terms | None]) -> Terms | None:
    """Of an equation that names all axes and the result's."""
    left, arrow, out = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    names = left.split(",")
    if not arrow or "." in left or len(names) != len(inputs):
        return None
    found: dict[str, Term] = {}
    for name, terms in zip(names, inputs, strict=True):
        if terms is None or len(terms) != len(name):
            return None
        for letter, term in zip(name, terms, strict=True):
            if found.get(letter, 1) == 1 or isinstance(term, int):
                found[letter] = term
    return tuple(found[letter] for letter in out) if set(out) <= set(found) else None
