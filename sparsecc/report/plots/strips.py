"""The graph before and after: nodes in order, gathered by the region they are in."""

from __future__ import annotations

import collections
import itertools
from dataclasses import dataclass

from sparsecc.report.document import Document, NodeMark


@dataclass(frozen=True)
class Strip:
    """Nodes that follow each other inside one region, or outside all.

    Attributes:
        region: The region; "" outside.
        steps: Steps that the library runs for it; 0 outside.
        nodes: Its nodes in order.
    """

    region: str
    steps: int
    nodes: tuple[NodeMark, ...]

    @property
    def title(self) -> str:
        """What is written over it."""
        count = len(self.nodes)
        nodes = f"{count} node{'s' if count != 1 else ''}"
        if not self.region:
            return f"outside: {nodes}"
        return f"{self.region}: {nodes} in one call, {self.steps} steps"


def strips(document: Document) -> list[Strip]:
    """The graph that was written."""
    groups = itertools.groupby(document.after, key=lambda node: node.region)
    return [
        Strip(region, document.regions.get(region, 0), tuple(nodes)) for region, nodes in groups
    ]


def tip(node: NodeMark) -> str:
    """A node in words; its colour and its box say the rest."""
    return f"{node.name} · {node.op}" + (f": {node.why}" if node.why else "")


def kinds(document: Document) -> list[tuple[str, str, int]]:
    """Kind, its words and how many nodes of both graphs are of it; for a legend."""
    counts = collections.Counter(node.kind for node in (*document.before, *document.after))
    return [
        (kind, words.format(other=document.other), counts[kind])
        for kind, words in _WORDS.items()
        if kind in counts
    ]


_WORDS = {
    "sparse": "layer that skips zeros",
    "structured": "layer as smaller factors",
    "library": "dense layer in the library",
    "step": "other step of a region",
    "dense": "dense layer in {other}",
    "outside": "other node in {other}",
    "gone": "folded or fused away",
}

__all__ = ["Strip", "kinds", "strips", "tip"]
