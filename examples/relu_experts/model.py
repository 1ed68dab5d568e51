"""A small transformer that predicts the next character; any activation in its feed-forward."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

FEATURES, NEURONS, HEADS, BLOCKS = 256, 1024, 4, 4
CHARACTERS, CONTEXT = 128, 256
"""Codes of ASCII, and the characters that are read at once."""


class Block(nn.Module):
    """Causal attention and a feed-forward network, each behind a norm and added to what came in.

    Args:
        activation: Makes the module between the two layers of the feed-forward network.
    """

    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(FEATURES)
        self.queries_keys_values = nn.Linear(FEATURES, 3 * FEATURES)
        self.mixed = nn.Linear(FEATURES, FEATURES)
        self.before_forward = nn.LayerNorm(FEATURES)
        self.up = nn.Linear(FEATURES, NEURONS)
        self.activation = activation()
        self.down = nn.Linear(NEURONS, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """[texts, characters, FEATURES] to the same."""
        parts = self.queries_keys_values(self.before_attention(x)).chunk(3, -1)
        heads = [each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in parts]
        seen = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.mixed(seen.transpose(1, 2).flatten(-2))
        return x + self.down(self.activation(self.up(self.before_forward(x))))


class Reader(nn.Module):
    """Scores of the next character behind each of up to CONTEXT characters."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, FEATURES)
        self.places = nn.Embedding(CONTEXT, FEATURES)
        self.blocks = nn.ModuleList(Block(activation) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(FEATURES)
        self.scores = nn.Linear(FEATURES, CHARACTERS)
        for table in (self.characters, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Codes [texts, characters] to scores [texts, characters, CHARACTERS]."""
        x = self.characters(text) + self.places.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.scores(self.norm(x))
        return scores
