"""Whole models whose attention hides keys in every run: found without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.verify import verify

TOLERANCE = 1e-5
WIDTH, HEADS, WORDS, LONG = 64, 4, 100, 300
OPEN = torch.export.Dim.AUTO
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, to whoever exports


class Block(nn.Module):
    """A layer of a transformer over the positions that a rule leaves."""

    def __init__(self, left: int | None, causal: bool) -> None:
        super().__init__()
        self.left, self.causal = left, causal
        self.norm, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in parts)
        at = torch.arange(x.shape[1])
        apart = at[None] - at[:, None]
        seen = apart <= 0 if self.causal else apart <= self.left
        if self.left is not None:
            seen = seen & (apart >= -self.left)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.after(x))))


class Model(nn.Module):
    """Words in, one vector for each out."""

    def __init__(self, left: int | None, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(*(Block(left, causal) for _ in range(2)))

    def forward(self, ids: Tensor) -> Tensor:
        return self.blocks(self.words(ids))


def ids(batch: int, length: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(length).integers(5, WORDS, (batch, length)))


def check(
    module: nn.Module, kinds: list[str], lengths: list[int], **options: Any
) -> sparsecc.Compiled:
    """What was compiled, which computes what the module does in float64."""
    module = module.eval()
    example = ids(2, LONG)
    shapes = ({0: OPEN, 1: OPEN},) if len(lengths) > 1 else None
    compiled = sparsecc.compile(
        module, example_inputs=(example,), dynamic_shapes=shapes, verify=True, **options
    )
    rows = [row for row in compiled.report.rows if row.kernel == "attention"]
    assert [row.pattern for row in rows] == kinds
    assert all(row.density < 1 and row.est_ms < row.dense_ms for row in rows)
    with torch.no_grad():
        for length in lengths:
            given = ids(2, length)
            want = module.double()(given).numpy()
            got = next(iter(compiled.run({"ids": given.numpy()}).values()))
            module.float()
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())
    assert verify(compiled.path)["ok"]
    return compiled


BACKENDS: dict[str, dict[str, str]] = {
    "onnxruntime": {},
    "bundle": {"backend": "bundle"},
    "wasm": {"target": "wasm"},
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sliding_window_at_any_length(backend: str) -> None:
    model = Model(left=16, causal=False)
    compiled = check(model, ["window 16+16"] * 2, [LONG, 1, 17, 130], **BACKENDS[backend])
    assert compiled.manifest.regions


def test_a_causal_model_at_one_length() -> None:
    check(Model(left=None, causal=True), ["causal"] * 2, [LONG])


def test_from_an_onnx_file(tmp_path: Path) -> None:
    """What torch's exporter writes, compiled from the file."""
    module, path = Model(left=None, causal=True).eval(), tmp_path / "model.onnx"
    example = ids(2, LONG)
    shapes = ({0: OPEN, 1: OPEN},)
    kept = {"dynamo": True, "opset_version": 20, "dynamic_shapes": shapes, "verbose": False}
    torch.onnx.export(module, (example,), path, input_names=["ids"], external_data=False, **kept)
    compiled = sparsecc.compile(path, verify=True)
    assert [row.pattern for row in compiled.report.rows if row.kernel == "attention"] == [
        "causal"
    ] * 2
    for length in (LONG, 5):
        given = ids(2, length)
        with torch.no_grad():
            want = module(given).numpy()
        got = next(iter(compiled.run({"ids": given.numpy()}).values()))
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


class Hugging(nn.Module):
    """A model of transformers, its first output alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        return hidden


COMMON = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 2}
COMMON |= {"intermediate_size": 128, "vocab_size": WORDS, "attn_implementation": "sdpa"}
HUGGING: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ModernBERT": (
        "ModernBert",
        {"local_attention": 32, "global_attn_every_n_layers": 2, "pad_token_id": 0},
        ["window 16+16"],
    ),
    "Mistral, heads of keys shared": (
        "Mistral",
        {"num_key_value_heads": 2, "sliding_window": 32, "use_cache": False},
        ["window 31+0"] * 2,
    ),
}


@pytest.mark.parametrize("name", HUGGING)
def test_models_of_transformers(name: str) -> None:
    library = pytest.importorskip("transformers")
    kind, settings, kinds = HUGGING[name]
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    own = tokens if kind == "ModernBert" else {}
    config = getattr(library, f"{kind}Config")(**COMMON, **settings, **own)
    torch.manual_seed(0)
    check(Hugging(getattr(library, f"{kind}Model")(config)), kinds, [LONG])
