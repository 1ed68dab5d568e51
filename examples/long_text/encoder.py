"""all-MiniLM-L6-v2 with a sliding window, its table of positions repeated for longer texts."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from examples.sentence_embeddings import encoder
from examples.sentence_embeddings.encoder import IGNORED, Encoder


class WindowEncoder(Encoder):
    """The encoder in which a token sees those at most `window` away, on both sides.

    Args:
        trained: Whose weights it has.
        window: Tokens to each side.
        tokens: The longest text; positions beyond the trained ones repeat them.
    """

    def __init__(self, trained: Encoder, window: int, tokens: int) -> None:
        super().__init__(json.loads((encoder.folder() / "config.json").read_text()))
        self.load_state_dict(trained.state_dict())
        self.window = window
        table = trained.embeddings["position_embeddings"].weight.data
        repeated = table.repeat(-(-tokens // len(table)), 1)[:tokens]
        self.embeddings["position_embeddings"] = nn.Embedding.from_pretrained(repeated)
        self.eval()

    def mask(self, flags: Tensor) -> Tensor:
        """Besides: whatever is outside of the window."""
        at = torch.arange(flags.shape[1])
        far = (at[None] - at[:, None]).abs() > self.window
        return super().mask(flags) + torch.where(far, IGNORED, 0.0)
