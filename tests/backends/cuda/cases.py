"""Attentions for the GPU kernel, and what they should give, in float64."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from sparsecc.backends.cuda.attention import sizes_of, tile_of
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.tiles import Rule, pack
from sparsecc.ops.block_sparse_attention import attend, seen_by_blocks, seen_by_rule
from sparsecc.torch.tile_kernels import Listed, gradients
from sparsecc.torch.tile_kernels import attend as attend_by_tiles

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

    def expected_gradients(self, q, k, v, out, grad):
        """Of queries, keys and values, in float64, for an output that is rounded.

        Rounding changes the sum of an output times its gradient, from which gradients of scores are
        small differences; that is the forward's error.
        """
        q, k, v, out, grad = (each.double() for each in (q, k, v, out, grad))
        shared = k.shape
        k, v = (each.repeat_interleave(self.group, 1) for each in (k, v))
        seen = torch.from_numpy(self.seen().copy())
        if self.ordered:
            back = np.argsort(self.orders(), 1)
            seen = torch.stack([one[at][:, at] for one, at in zip(seen, back, strict=True)])
        seen = seen.repeat(self.heads // len(seen), 1, 1)
        scores = (self.scale * q @ k.mT).masked_fill(~seen, -torch.inf)
        weights = torch.nan_to_num(torch.softmax(scores, -1))
        of_scores = weights * (grad @ v.mT - (out * grad).sum(-1, keepdim=True)) * self.scale
        of_keys, of_values = (
            each.unflatten(1, (shared[1], self.group)).sum(2)
            for each in (of_scores.mT @ q, weights.mT @ grad)
        )
        return of_scores @ k, of_keys, of_values

    def listed(self, rows=None):
        """Its tiles, by default those of all rows."""
        tiles = self.tiles()
        lists = [(tiles.starts, tiles.full, tiles.at, tiles.bits), tiles.by_keys()]
        return Listed(
            torch.from_numpy(tiles.order(self.heads) if rows is None else rows.copy()),
            *([torch.from_numpy(array.copy()) for array in each] for each in lists),
            torch.from_numpy(self.orders()) if self.ordered else None,
            (tiles.rows, tiles.columns),
            list(sizes_of(tiles).values()),
        )

    def gradients(self):
        """Tokens with the gradient of the output, and what the interpreter makes of them."""
        q, k, v = self.tensors()
        out, lse = (torch.from_numpy(each) for each in self.expected(q, k, v))
        grad = torch.randn(q.shape).to(q.dtype)
        tokens = {"Q": q, "K": k, "V": v, "Out": out.to(q.dtype), "Grad": grad}

        def start(kernel, grid, given):
            for name in ("DQ", "Delta") if "DQ" in given else ("DK", "DV"):
                given[name].fill_(math.nan)
            interpret(kernel, self.arch, grid, given)

        return tuple(tokens.values()), gradients(
            start, self.arch, tokens, lse.float(), self.listed(), self.scale
        )

    def run(self, rows=None):
        """Through the interpreter, over these rows, by default all; poisoned before."""
        tokens = self.tensors()
        out = torch.full(tokens[0].shape, math.nan, dtype=tokens[0].dtype)
        lse = torch.full(out.shape[:3], math.nan)

        def start(kernel, grid, given):
            interpret(kernel, self.arch, grid, given)

        made = attend_by_tiles(start, self.arch, tokens, self.listed(rows), self.scale, (out, lse))
        return tokens, *(each.double().numpy() for each in made)
