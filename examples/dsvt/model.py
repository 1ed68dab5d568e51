"""A DSVT block: two layers of attention within sets, sorted by row and then by column.

As in the paper: width 192, 8 heads, hidden width 384, an embedding of places in each layer, norms
behind the residuals, and a residual around a block. One layer of voxels in height, as for pillars.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.dsvt.sets import Sets, Windows, sets_of

WIDTH, HEADS, HIDDEN = 192, 8, 384


class SetAttention(nn.Module):
    """Attention among the voxels of each set.

    Voxels are projected before they are gathered into slots, and projected back when they are out
    of them: it is the same, and there are fewer voxels than slots.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, placed: Tensor, x: Tensor, sets: Sets) -> Tensor:
        """``[voxels, WIDTH]``; queries and keys know the place of their voxel, values do not.

        Args:
            placed: Features with the embedding of their place.
            x: Features.
            sets: Of the voxels.
        """
        q, k, v = (
            each[sets.voxels].unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for each in (self.query(placed), self.key(placed), self.value(x))
        )
        y = attend(q, k, v, sets.repeated[:, None, None]).transpose(1, 2).flatten(2)
        out: Tensor = self.out(y.flatten(0, 1)[sets.slots])
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """``[sets, HEADS, slots, features]``; `hidden` says which keys nobody sees."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


class Layer(nn.Module):
    """Set attention and two dense layers, each with a residual and a norm behind it.

    Args:
        windows: How the grid is cut.
        by_rows: How voxels of a window are sorted.
    """

    def __init__(self, windows: Windows, *, by_rows: bool) -> None:
        super().__init__()
        self.windows, self.by_rows = windows, by_rows
        self.place = nn.Sequential(
            nn.Linear(2, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.attention = SetAttention()
        self.dense = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """``[voxels, WIDTH]``, for voxels at ``[voxels, 2]``."""
        inside = (places + self.windows.shift) % self.windows.size
        placed = x + self.place(inside.float() - self.windows.size / 2)
        sets = sets_of(places, self.windows, by_rows=self.by_rows)
        x = self.norms[0](x + self.attention(placed, x, sets))
        out: Tensor = self.norms[1](x + self.dense(x))
        return out


class Block(nn.Module):
    """Two layers and a residual around them.

    Args:
        windows: How the grid is cut.
    """

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(windows, by_rows=rows) for rows in (True, False))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """``[voxels, WIDTH]``, for voxels at ``[voxels, 2]``."""
        y = x
        for layer in self.layers:
            y = layer(y, places)
        out: Tensor = self.norm(x + y)
        return out


class Encoder(nn.Module):
    """Blocks over small windows and over larger ones that are shifted, in turn.

    Args:
        side: Voxels along each side of the grid.
        blocks: How many.
    """

    def __init__(self, side: int, blocks: int = 4) -> None:
        super().__init__()
        self.side = side
        both = Windows(side, 12), Windows(side, 24, 6)
        self.blocks = nn.ModuleList(Block(both[at % 2]) for at in range(blocks))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """``[voxels, WIDTH]``, for voxels at ``[voxels, 2]``."""
        for block in self.blocks:
            x = block(x, places)
        return x
