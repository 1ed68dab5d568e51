"""Arithmetic of a video diffusion transformer, counted as Sparse-vDiT does (arXiv 2506.03065)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Denoiser:
    """A transformer and how often it runs; a multiplication and an addition count as two.

    Attributes:
        layers: All alike.
        width: Features of a token, over all heads.
        tokens: Of the self-attention: patches, and words where they are joined with them.
        mlp: Features inside the MLP.
        runs: Denoising steps, twice as many where guidance needs a second pass.
        context: Words that a cross-attention reads, 0 where there is none.
    """

    layers: int
    width: int
    tokens: int
    mlp: int
    runs: int
    context: int = 0

    @property
    def attention(self) -> int:
        """FLOP of the two products of self-attention, dense, over all layers and runs."""
        return self._all(4 * self.tokens**2 * self.width)

    @property
    def rest(self) -> int:
        """FLOP of all other products: projections, the MLP, and a cross-attention."""
        projections = 4 * self.width + 2 * self.mlp
        layer = 2 * self.tokens * self.width * projections
        if self.context:
            layer += 4 * self.width**2 * (self.tokens + self.context)
            layer += 4 * self.tokens * self.context * self.width
        return self._all(layer)

    def flops(self, density: float = 1.0) -> float:
        """FLOP of a video whose self-attention computes this share of its scores."""
        return self.attention * density + self.rest

    def density(self, flops: float) -> float:
        """The share of scores at which a video takes so many FLOP."""
        return (flops - self.rest) / self.attention

    def _all(self, layer: int) -> int:
        return layer * self.layers * self.runs
