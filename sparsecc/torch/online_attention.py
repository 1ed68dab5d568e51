"""Attention that searches for its blocks while a model samples, and what counts its steps."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.rows.attention import BLOCK
from sparsecc.backends.cuda.tiles import Rule
from sparsecc.errors import BackendError, PlanError
from sparsecc.ops.attention_search import blocks_of_words, kept_counts
from sparsecc.search.attentions import PlanOnline
from sparsecc.torch.block_search import block_masses, choose_blocks, listed_blocks, most_blocks
from sparsecc.torch.tile_attention import alike, here
from sparsecc.torch.tile_kernels import Listed
from sparsecc.torch.tile_operator import tile_attention

Phase = Literal["", "full", "search", "keep"]
"""What a call does: none is under way, every block, blocks that it finds, or those found before."""


class OnlineAttention(nn.Module):  # type: ignore[misc]
    """Attention of tokens to themselves over blocks that some of its calls search for (AdaSpa).

    A step searches as the op ``AttentionBlocks`` does (:func:`sparsecc.ops.next_blocks`), with the
    same blocks on the same inputs; what was found lies in buffers that are no part of
    ``state_dict``, in lists of one size. Nothing waits for the device. Steps are counted by
    :class:`Steps`: which of them does what is known to Python, so that ``torch.compile`` makes a
    graph of each kind.

    Args:
        heads: Of queries.
        tokens: Of queries and of keys.
        features: Of a head: 64 or 128.
        online: When it searches, and how many blocks stay.
        words: Tokens that stand for words, before and behind all others; all see them.
        arch: Of the GPU, as ``sm_90``; by default of the one that is here.

    Raises:
        BackendError: There is no kernel for heads like that.
        TargetError: There are no kernels for the GPU.
    """

    def __init__(
        self,
        heads: int,
        tokens: int,
        features: int,
        online: PlanOnline,
        *,
        words: tuple[int, int] = (0, 0),
        arch: Arch | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.tokens, self.online = heads, tokens, online
        self.phase: Phase = ""
        self.steps: Steps | None = None
        self._turn, self._others = 0, dict[int, list[Tensor]]()
        tile = kernels.tile_of(kernels.LIKE, features, BLOCK, False, arch or here())
        rule, blocks = Rule().within(), math.ceil(tokens / BLOCK)
        grain = math.gcd(*tile)
        self._tile = list(tile)
        self._sizes = [blocks, heads, grain, rule.left, rule.right, rule.sinks]
        of_words = blocks_of_words(tokens, BLOCK, words)
        held = int(np.count_nonzero(of_words))
        self._counts = kept_counts(online.sparsity, blocks - held)
        self._room = BLOCK // tile[1] * most_blocks(heads, held, blocks, self._counts)
        every = (1 << (tile[0] // grain) * (tile[1] // grain)) - 1
        arrays = {
            "words": of_words,
            "order": np.arange(heads * blocks, dtype=np.int32),
            "starts": np.zeros(heads * blocks + 1, np.int32),
            "full": np.zeros(heads * blocks, np.int32),
            "at": np.zeros(self._room + 1, np.int32),
            "bits": np.full(self._room + 1, every, np.int32),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def begin(self) -> None:
        """Forget what was found, before a sampling."""
        self.phase, self._turn = "", 0
        self._others.clear()

    def at_step(self, step: int, turn: int = 0) -> None:
        """Say which step the next call is: those of a sampling come one after the other from 0.

        Args:
            step: Of its sampling.
            turn: Of which of the samplings that take turns.
        """
        if turn != self._turn:
            if self.phase == "search":
                self._others[self._turn] = [each.clone() for each in self._lists()]
            for buffer, other in zip(self._lists(), self._others.get(turn, ()), strict=False):
                buffer.copy_(other)
            self._turn = turn
        self.phase = self._phase(step)

    def _phase(self, step: int) -> Phase:
        full, searches = self.online.full, self.online.searches
        if step in searches or step == full == 0:
            return "search"
        return "full" if full and step < searches[0] else "keep"

    def _lists(self) -> list[Tensor]:
        return [self.order, self.starts, self.full, self.at]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """The attention ``[B, H, L, D]`` of this step.

        Args:
            q: ``[B, H, L, D]``.
            k: ``[B, H / g, L, D]``.
            v: As k.
            scale: Of scores; by default 1 / √D.

        Raises:
            BackendError: Tensors of another shape.
            PlanError: Nothing counts the steps.
        """
        q, k, v = alike(q, k, v, self.tokens, self.tokens, self.heads)
        if q.shape[1] != self.heads:
            raise BackendError(
                f"{q.shape[1]} heads of queries, the search is of {self.heads}",
                fix="make the OnlineAttention with as many",
            )
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        if self.phase == "full":
            shared = q.shape[1] != k.shape[1]
            dense = functional.scaled_dot_product_attention
            made: Tensor = dense(q, k, v, scale=scale, enable_gqa=shared)
            return made
        if self.phase == "search":
            self._search(q, k, scale)
        elif self.phase == "":
            raise PlanError(
                "attention that searches while it samples was called, and nothing counts its steps",
                fix="make sparsecc.torch.Steps(module) before a sampling, and call the module",
            )
        out: Tensor = tile_attention(q, k, v, *vars(self.listed()).values(), scale)[0]
        return out

    def listed(self) -> Listed:
        """What was found, as the operator takes it."""
        rows = [self.starts, self.full, self.at, self.bits]
        return Listed(self.order, rows, [], None, self._tile, self._sizes)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _search(self, q: Tensor, k: Tensor, scale: float) -> None:
        masses = block_masses(q, k, BLOCK, scale)
        kept = choose_blocks(masses, q.shape[0] * self.tokens, self.words, self._counts)
        lists = listed_blocks(kept, BLOCK, self._tile[1], self.tokens, self._room)
        for buffer, made in zip(self._lists(), lists, strict=True):
            buffer.copy_(made)


class Steps:
    """Counts the calls of a module whose attention searches for blocks while it samples.

    ``steps = Steps(transformer)``, then the module is called once for each step, by whomever;
    before the next sampling comes ``steps.begin()``. Steps are counted outside of graphs: of a
    compiled module, give what ``torch.compile`` has made. The last of an attention counts.

    Args:
        module: What is called at each step; :func:`sparsecc.torch.optimize` has changed it or what
            is in it.
        samplings: How many take turns, with a call each at every step, such as one with a prompt
            and one without.

    Raises:
        PlanError: No attention of it searches; or, from a call, the sampling is over.
    """

    def __init__(self, module: nn.Module, samplings: int = 1) -> None:
        self._attentions = [each for each in module.modules() if isinstance(each, OnlineAttention)]
        if not self._attentions:
            raise PlanError(
                "no attention of the module searches while it samples",
                fix="optimize() it with a plan that was made with online=...",
            )
        self.samplings = samplings
        self.count = max(each.online.steps for each in self._attentions)
        self._hook = module.register_forward_pre_hook(self._next)
        for each in self._attentions:
            if each.steps is not None:
                each.steps._hook.remove()  # this one counts from now on
            each.steps = self
        self.begin()

    def begin(self) -> None:
        """Begin a sampling: the next call is its first."""
        self.calls = 0
        for each in self._attentions:
            each.begin()

    @torch.compiler.disable(  # type: ignore[untyped-decorator]
        reason="steps are counted outside of graphs: give Steps what torch.compile has made"
    )
    def _next(self, *_: Any) -> None:
        step, turn = divmod(self.calls, self.samplings)
        if step >= self.count:
            raise PlanError(
                f"call {self.calls + 1} of {self.samplings} × {self.count} steps of a sampling",
                fix="call begin() of its Steps before the next sampling, or make the plan with "
                "as many steps",
            )
        for each in self._attentions:
            each.at_step(step, turn)
        self.calls += 1
