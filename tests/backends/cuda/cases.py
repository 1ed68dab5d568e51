"""Attentions for the GPU kernel, and what they should give, in float64."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from sparsecc.backends.cuda.attention import arguments, grid_of, kernel_of, sizes_of, tile_of
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.tiles import Rule, pack
from sparsecc.ops.block_sparse_attention import attend, seen_by_blocks, seen_by_rule

BOUNDS = {"float16": 2e-3, "bfloat16": 1.6e-2}
"""Twice the step of a number near one, since weights are rounded to it before they are summed."""


@dataclass(frozen=True)
class Case:
    """An attention: `kept` holds blocks of [patterns, down, across], or None."""

    batch: int
    heads: int
    group: int
    queries: int
    keys: int
    features: int
    dtype: str
    tile_rows: int
    arch: str
    rule: Rule
    kept: np.ndarray | None
    block: tuple[int, int]
    ordered: bool
    scale: float
    seed: int

    def tensors(self):
        torch.manual_seed(self.seed)
        kind = getattr(torch, self.dtype)
        sizes = [(self.heads, self.queries)] + [(self.heads // self.group, self.keys)] * 2
        # tokens before heads, as a projection leaves them: strides that are not contiguous
        made = (torch.randn(self.batch, tokens, heads, self.features) for heads, tokens in sizes)
        return [each.to(kind).transpose(1, 2) for each in made]

    @property
    def patterns(self):
        return 1 if self.kept is None else len(self.kept)

    def orders(self):
        draws = np.random.default_rng(self.seed)
        every = [draws.permutation(self.queries) for _ in range(self.patterns)]
        return np.stack(every).astype(np.int32)

    def tiles(self):
        tile = tile_of(self.dtype, self.features, self.tile_rows, self.ordered, self.arch)
        return pack(self.queries, self.keys, tile, kept=self.kept, block=self.block, rule=self.rule)

    def seen(self):
        """Which keys queries see, [patterns, queries, keys]; in the order of tiles."""
        rule = self.rule
        seen = seen_by_rule(self.queries, self.keys, rule.left, rule.right, rule.sinks)[None]
        if self.kept is None:
            return seen
        index = np.flatnonzero(self.kept)
        grid = [*self.kept.shape, *self.block]
        return seen & seen_by_blocks(index, grid, self.queries, self.keys)

    def expected(self, q, k, v):
        """The output and the log-sum-exp, each by its head."""
        q, k, v = (each.double().numpy() for each in (q, k, v))
        out, lse = np.zeros_like(q), np.zeros(q.shape[:3])
        for head in range(self.heads):
            there = self.orders()[head % self.patterns] if self.ordered else slice(None)
            at, of = slice(head, head + 1), slice(head // self.group, head // self.group + 1)
            mask = np.where(self.seen()[head % self.patterns], 0, -np.inf)
            turned = [q[:, at][:, :, there], k[:, of][:, :, there], v[:, of][:, :, there]]
            scale = self.scale
            out[:, head, there] = attend(*turned, scale=scale, mask=mask)[:, 0]
            scores = scale * turned[0] @ turned[1].swapaxes(-1, -2) + mask
            top = np.maximum(scores.max(-1), -1e30)
            with np.errstate(divide="ignore"):
                lse[:, head, there] = (top + np.log(np.exp(scores - top[..., None]).sum(-1)))[:, 0]
        return out, lse

    def run(self, rows=None):
        """Through the interpreter, over these rows, by default all; poisoned before."""
        q, k, v = self.tensors()
        tiles = self.tiles()
        every = tiles.order(self.heads) if rows is None else rows
        indices = {
            "Order": every,
            "Rows": tiles.starts,
            "Full": tiles.full,
            "Columns": tiles.at,
            "Bits": tiles.bits,
        } | ({"Places": self.orders()} if self.ordered else {})
        indices = {name: torch.from_numpy(array.copy()) for name, array in indices.items()}
        out = torch.full(q.shape, math.nan, dtype=q.dtype)
        lse = torch.full(q.shape[:3], math.nan)
        given = arguments(
            *(q, k, v, out, lse), indices=indices, sizes=sizes_of(tiles), scale=self.scale
        )
        kernel = kernel_of(self.dtype, self.features, self.tile_rows, self.ordered)
        interpret(kernel, self.arch, grid_of(indices["Order"], q), given)
        return (q, k, v), out.double().numpy(), lse.double().numpy()
