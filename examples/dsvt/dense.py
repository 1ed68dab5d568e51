"""The same layers without sets: all voxels against all, and a mask that says who shares a set."""

from __future__ import annotations

from torch import Tensor

from examples.dsvt.model import HEADS, Encoder, SetAttention, attend
from examples.dsvt.sets import SET, Sets


class DenseAttention(SetAttention):
    """Computes a score for every two voxels."""

    def forward(self, placed: Tensor, x: Tensor, sets: Sets) -> Tensor:
        """As that of the class above."""
        q, k, v = (
            each.unflatten(-1, (HEADS, -1)).transpose(0, 1)
            for each in (self.query(placed), self.key(placed), self.value(x))
        )
        own = sets.slots // SET
        out: Tensor = self.out(attend(q, k, v, own[:, None] != own).transpose(0, 1).flatten(1))
        return out


def dense(encoder: Encoder) -> Encoder:
    """An encoder with the same weights and dense layers."""
    other = Encoder(encoder.side, len(encoder.blocks)).train(encoder.training)
    for block in other.blocks:
        for layer in block.layers:
            layer.attention = DenseAttention()
    other.load_state_dict(encoder.state_dict())
    return other
