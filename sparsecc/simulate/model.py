"""The model that is trained: a transformer whose layers have experts, but for some first ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from sparsecc.simulate.described import Count, Described, Natural, Positive, file_kind, read

DType = Literal["bfloat16", "float16", "float32"]
Split = Literal["outputs", "inputs", "tokens"]
Kind = Literal["dense", "experts", "predictor"]

_Width = Annotated[int, pydantic.Field(ge=1, le=1 << 20)]
_Few = Annotated[int, pydantic.Field(ge=1, le=4096)]


class Attention(Described):
    """Causal attention, with latent queries, keys and values (MLA) where ranks are given.

    Attributes:
        heads: How many.
        key_dim: Features of a query and of a key.
        value_dim: Features of a value.
        kv_heads: Heads of keys and values, where fewer than ``heads``.
        query_rank: Of the latent that queries are made of; 0 for none.
        latent_rank: Of the latent that keys and values are made of; 0 for none.
        position_dim: Features of ``key_dim`` that hold the position, one key for all heads.
    """

    heads: _Few
    key_dim: _Few
    value_dim: _Few
    kv_heads: _Few | None = None
    query_rank: Natural = 0
    latent_rank: Natural = 0
    position_dim: Natural = 0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Attention:
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} of keys evenly")
        if bool(self.query_rank) != bool(self.latent_rank):
            raise ValueError("query_rank and latent_rank go together: give both or none")
        if self.position_dim >= self.key_dim or (self.position_dim and not self.latent_rank):
            raise ValueError("position_dim is a part of key_dim, for latent keys")
        return self


class Model(Described):
    """A mixture of experts to train.

    Attributes:
        name: What tables call it.
        layers: All of them, without ``predictors``.
        dense_layers: First layers, without experts.
        d: Features of a token.
        attention: Of each layer.
        dense_width: Hidden features of a feed-forward without experts.
        expert_width: Hidden features of an expert.
        experts: Routed experts of a layer.
        top_k: Experts that a token goes through.
        shared: Experts that every token goes through.
        gated: Whether a feed-forward has a gate (SwiGLU): three matrices, not two.
        norms: Normalisations of a layer; four for a sandwich.
        vocabulary: Tokens that there are.
        sequence: Tokens of a sequence.
        batch: Sequences of a step, on all devices together.
        predictors: Modules that predict one more token each (MTP): a layer and a head.
        dtype: Of weights and activations in products.
        load: How often each expert is chosen, in any unit; by default all alike but for chance.
    """

    name: Annotated[str, pydantic.Field(min_length=1, max_length=100)]
    layers: _Few
    dense_layers: Natural = 0
    d: _Width
    attention: Attention
    dense_width: _Width
    expert_width: _Width
    experts: _Few
    top_k: _Few
    shared: Natural = 0
    gated: bool = True
    norms: Annotated[int, pydantic.Field(ge=1, le=16)] = 2
    vocabulary: Count
    sequence: Annotated[int, pydantic.Field(ge=1, le=1 << 24)]
    batch: Count
    predictors: Annotated[int, pydantic.Field(ge=0, le=16)] = 0
    dtype: DType = "bfloat16"
    load: Annotated[tuple[Positive, ...], pydantic.Field(max_length=4096)] | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Model:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, and there are {self.experts} experts")
        if self.dense_layers > self.layers:
            raise ValueError(f"dense_layers is {self.dense_layers}, of {self.layers} layers")
        if self.shared > self.experts:
            raise ValueError(f"shared is {self.shared}, more than the {self.experts} routed")
        if self.load is not None and len(self.load) != self.experts:
            raise ValueError(f"load has {len(self.load)} numbers for {self.experts} experts")
        return self

    @property
    def item_bytes(self) -> int:
        """Bytes of a number in products."""
        return 4 if self.dtype == "float32" else 2

    def kinds(self) -> tuple[Kind, ...]:
        """What each layer is, predictors last."""
        dense: tuple[Kind, ...] = ("dense",)
        routed: tuple[Kind, ...] = ("experts",)
        after: tuple[Kind, ...] = ("predictor",)
        experts = self.layers - self.dense_layers
        return dense * self.dense_layers + routed * experts + after * self.predictors


@dataclass(frozen=True)
class Matrix:
    """A weight of every layer of some kind.

    Attributes:
        name: What it does.
        inputs: Features that it reads.
        outputs: Features that it makes.
        split: What tensor parallelism divides: one of its sides, or the tokens, where every device
            has it whole.
        remade: Whether partial recomputation makes its outputs again.
    """

    name: str
    inputs: int
    outputs: int
    split: Split
    remade: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return self.inputs * self.outputs


def attention_matrices(model: Model) -> Iterator[Matrix]:
    """The weights of an attention."""
    a, d = model.attention, model.d
    if a.latent_rank:
        yield Matrix("query down", d, a.query_rank, "tokens")
        yield Matrix("query up", a.query_rank, a.heads * a.key_dim, "outputs", remade=True)
        yield Matrix("latent down", d, a.latent_rank + a.position_dim, "tokens")
        made = a.heads * (a.key_dim - a.position_dim + a.value_dim)
        yield Matrix("latent up", a.latent_rank, made, "outputs", remade=True)
    else:
        kv = (a.kv_heads or a.heads) * (a.key_dim + a.value_dim)
        yield Matrix("query, key, value", d, a.heads * a.key_dim + kv, "outputs")
    yield Matrix("attention out", a.heads * a.value_dim, d, "inputs")


def feedforward_matrices(model: Model, width: int) -> Iterator[Matrix]:
    """The weights of a feed-forward, whole; of an expert as well."""
    yield Matrix("up", model.d, width * (2 if model.gated else 1), "outputs")
    yield Matrix("down", width, model.d, "inputs")


def matrices(model: Model, kind: Kind) -> Iterator[Matrix]:
    """The weights of a layer that every token goes through."""
    if kind == "predictor":
        yield Matrix("predictor", 2 * model.d, model.d, "tokens")
    yield from attention_matrices(model)
    if kind == "dense":
        yield from feedforward_matrices(model, model.dense_width)
        return
    yield Matrix("router", model.d, model.experts, "tokens")
    if model.shared:
        yield from feedforward_matrices(model, model.shared * model.expert_width)


def head(model: Model) -> Matrix:
    """What makes scores of a token's features; the embedding is as large."""
    return Matrix("head", model.d, model.vocabulary, "outputs")


def expert_parameters(model: Model) -> int:
    """Numbers in one expert."""
    return sum(each.parameters for each in feedforward_matrices(model, model.expert_width))


def parameters(model: Model) -> tuple[int, int]:
    """Numbers in all weights but norms, and in those that one token goes through.

    The embedding is in both, and a predictor's head and embedding are those of the model.
    """
    kinds, expert = model.kinds(), expert_parameters(model)
    every = sum(m.parameters for kind in kinds for m in matrices(model, kind))
    every += 2 * head(model).parameters
    routed = sum(kind != "dense" for kind in kinds) * expert
    return every + routed * model.experts, every + routed * model.top_k


def flops_per_token(model: Model) -> float:
    """What training on a token computes, forward and backward, as MFU counts it.

    Six for each weight that the token goes through, the embedding not among them and a head per
    prediction; attention over the whole sequence, as PaLM counts it (arXiv 2204.02311, appendix B).
    """
    _, active = parameters(model)
    weights = active + (model.predictors - 1) * head(model).parameters
    a = model.attention
    scores = len(model.kinds()) * a.heads * (a.key_dim + a.value_dim) * model.sequence
    return 6.0 * (weights + scores)


MODEL_FILE = file_kind("model description", Model)


def read_model(path: Path) -> Model:
    """Read the description of a model.

    Raises:
        SimulationError: It cannot be read, or something in it is wrong.
    """
    return read(MODEL_FILE, path)


__all__ = [
    "MODEL_FILE",
    "Attention",
    "Kind",
    "Matrix",
    "Model",
    "Split",
    "attention_matrices",
    "expert_parameters",
    "feedforward_matrices",
    "flops_per_token",
    "head",
    "matrices",
    "parameters",
    "read_model",
]
