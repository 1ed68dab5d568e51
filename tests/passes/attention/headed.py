"""Models whose attentions have heads of every kind that a video transformer has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st

from sparsecc.passes.attention.modes import Grid
from tests.passes.permute.graphs import Net

GRID = Grid(4, 4, 8)
WIDTH = 12


@dataclass(frozen=True)
class Style:
    """How an attention is written.

    Attributes:
        groups: Heads of keys and values.
        share: Heads of queries for each of them.
        dim: Features of a head, an even number.
        fused: One product for queries, keys and values.
        norm: Of queries and keys: a scale for the features of every head, or for those of each.
        turns: Rotary embeddings.
    """

    groups: int = 4
    share: int = 1
    dim: int = 4
    fused: bool = False
    norm: str = ""
    turns: bool = False

    @property
    def heads(self) -> int:
        """Of queries."""
        return self.groups * self.share


STYLES = st.builds(
    Style,
    groups=st.integers(1, 5),
    share=st.integers(1, 3),
    dim=st.sampled_from([4, 6]),
    fused=st.booleans(),
    norm=st.sampled_from(["", "every", "each"]),
    turns=st.booleans(),
).filter(lambda style: style.heads > 1)


class Headed(Net):
    """A model of such attentions, each beside a residual, in float32."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__([1, GRID.tokens, WIDTH], seed, np.float32)

    def model(self, *styles: Style, seen: bool = False) -> onnx.ModelProto:
        """One layer after the other; `seen`: the last one's heads can be told apart."""
        x = "x"
        for style in styles:
            y = self.attention(x, style)
            if seen and style is styles[-1]:
                y = self.op("CumSum", y, self.number(2))
            x = self.op("Add", x, self.linear(y, style.heads * style.dim, WIDTH))
        return self.build(x)

    def attention(self, x: str, style: Style) -> str:
        """[1, tokens, all features of all heads]."""
        queries, keys, values = self.parts(x, style)
        heads, groups, dim = style.heads, style.groups, style.dim
        q = self.prepared(self.split(queries, heads, dim), heads, style)
        k = self.prepared(self.split(keys, groups, dim), groups, style)
        v = self.split(values, groups, dim)
        k, v = (self.repeated(each, style) for each in (k, v))
        turned = self.op("Transpose", k, perm=[0, 1, 3, 2])
        scores = self.op("Softmax", self.op("MatMul", q, turned), axis=-1)
        y = self.op("Transpose", self.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        return str(self.op("Reshape", y, self.ints(1, GRID.tokens, heads * dim)))

    def parts(self, x: str, style: Style) -> list[str]:
        """Queries, keys and values."""
        sizes = [style.heads * style.dim, *[style.groups * style.dim] * 2]
        if not style.fused:
            return [self.linear(x, WIDTH, size) for size in sizes]
        every = self.linear(x, WIDTH, sum(sizes))
        return list(self.op("Split", every, self.ints(*sizes), outputs=3, axis=-1))

    def split(self, x: str, heads: int, dim: int) -> str:
        """[1, heads, tokens, dim]."""
        apart = self.op("Reshape", x, self.ints(1, GRID.tokens, heads, dim))
        return str(self.op("Transpose", apart, perm=[0, 2, 1, 3]))

    def prepared(self, x: str, heads: int, style: Style) -> str:
        """Queries or keys, normed and turned."""
        if style.norm:
            square = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1])
            shape = (1, 1, 1, style.dim) if style.norm == "every" else (1, heads, 1, style.dim)
            x = self.op("Mul", self.op("Div", x, self.op("Sqrt", square)), self.weight(*shape))
        if not style.turns:
            return x
        half = self.ints(style.dim // 2, style.dim // 2)
        front, behind = self.op("Split", x, half, outputs=2, axis=-1)
        crossed = self.op("Concat", self.op("Neg", behind), front, axis=-1)
        cos, sin = (self.weight(1, 1, GRID.tokens, style.dim) for _ in range(2))
        return str(self.op("Add", self.op("Mul", x, cos), self.op("Mul", crossed, sin)))

    def repeated(self, x: str, style: Style) -> str:
        """Keys or values for each head of queries, as transformers' repeat_kv makes them."""
        if style.share == 1:
            return x
        groups, tokens, dim = style.groups, GRID.tokens, style.dim
        apart = self.op("Unsqueeze", x, self.ints(2))
        apart = self.op("Expand", apart, self.ints(1, groups, style.share, tokens, dim))
        return str(self.op("Reshape", apart, self.ints(1, style.heads, tokens, dim)))
