"""The attention of a plan inside of a torch module, which stays one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparsecc.backends.cuda.rows.attention import BLOCK
from sparsecc.errors import PlanError
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.online import words_of
from sparsecc.passes.attention.plan import patterns_of
from sparsecc.search.attentions import PlanAttention
from sparsecc.search.plan import Plan
from sparsecc.torch.online_attention import OnlineAttention
from sparsecc.torch.tile_attention import TileAttention

_ATTENTION = "sparse_attention"
"""Name of the submodule that a module gets."""


@dataclass(frozen=True)
class _Call:
    """A call of torch's attention: whose it was, and heads, tokens and features."""

    name: str
    owner: nn.Module
    heads: int
    tokens: int
    features: int


def optimize(
    module: nn.Module,
    plan: Plan,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Let the attention of a module keep the blocks that a plan says.

    The module is run once to find which of its parts call ``scaled_dot_product_attention``; the
    n-th such call over the tokens of the plan's grid is the n-th attention of the plan. These parts
    then call :class:`TileAttention` instead, under ``torch.compile`` too, or
    :class:`OnlineAttention` where the plan searches online: then make a :class:`Steps` of what is
    called at each step of a sampling. Weights stay as they are, and so does ``state_dict``.

    Args:
        module: Changed in place.
        plan: Made by a search on the same model.
        example_inputs: What its forward takes.
        example_kwargs: By name.

    Returns:
        The module.

    Raises:
        PlanError: The plan has no blocks, or is of another model; or one part has several such
            attentions.
        BackendError: There is no kernel for its heads.
    """
    if not any(not entry.is_dense for entry in plan.attention):
        raise PlanError(
            "the plan leaves out no blocks of attention", fix="make one with attention=..."
        )
    calls = _calls(module, plan.attention, example_inputs, dict(example_kwargs or {}))
    made = [
        (call, _attention(call, entry))
        for call, entry in zip(calls, plan.attention, strict=True)
        if not entry.is_dense
    ]
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    for call, attention in made:
        call.owner.add_module(_ATTENTION, attention.to(device))
        call.owner.__class__ = _instead(type(call.owner))
    return module


def _calls(
    module: nn.Module,
    entries: Sequence[PlanAttention],
    inputs: Sequence[Any],
    named: dict[str, Any],
) -> list[_Call]:
    """The call of each entry.

    Raises:
        PlanError: The plan is of another model, or of one that has been optimized.
    """
    tokens = {Grid.parse(entry.grid).tokens for entry in entries}
    recorder = _Recorder(tokens)
    names = {each: name for name, each in module.named_modules()}
    for each, name in names.items():
        if hasattr(each, _ATTENTION):
            raise PlanError(f"{name!r} has the attention of a plan already", fix="load it again")
    hooks = [
        hook
        for each in names
        for hook in (
            each.register_forward_pre_hook(lambda owner, _: recorder.owners.append(owner)),
            each.register_forward_hook(lambda *_: recorder.owners.pop() and None, always_call=True),
        )
    ]
    try:
        with torch.no_grad(), recorder:
            module(*inputs, **named)
    finally:
        for hook in hooks:
            hook.remove()
    calls = [
        _Call(names[owner], owner, shape[-3], shape[-2], shape[-1])
        for owner, shape in recorder.found
    ]
    _check(calls, entries, tokens)
    return calls


def _check(calls: Sequence[_Call], entries: Sequence[PlanAttention], tokens: set[int]) -> None:
    fix = "give the plan of this model, and inputs of the size that it was made for"
    if len(calls) != len(entries):
        over = " or ".join(map(str, sorted(tokens)))
        raise PlanError(
            f"the plan has {len(entries)} attentions, the module calls "
            f"scaled_dot_product_attention {len(calls)} times over {over} tokens without a mask",
            fix=fix,
        )
    for call, entry in zip(calls, entries, strict=True):
        Grid.parse(entry.grid).check(call.tokens, entry.name)
        if call.heads != len(entry.heads):
            raise PlanError(
                f"{call.name!r} has {call.heads} heads, the plan {len(entry.heads)}",
                node=entry.name,
                fix=fix,
            )
        if sum(other.owner is call.owner for other in calls) > 1:
            raise PlanError(
                f"{call.name!r} calls scaled_dot_product_attention more than once",
                node=entry.name,
                fix="call each from the forward of a module of its own",
            )
        if entry.online is not None and entry.block != BLOCK:
            raise PlanError(
                f"it searches for blocks of {entry.block} tokens, kernels have {BLOCK}",
                node=entry.name,
                fix="make the plan again with this version of sparsecc",
            )


def _attention(call: _Call, entry: PlanAttention) -> TileAttention | OnlineAttention:
    if entry.online is not None:
        words = words_of(Grid.parse(entry.grid))
        sizes = call.heads, call.tokens, call.features
        return OnlineAttention(*sizes, entry.online, words=words)
    patterns = patterns_of(entry)
    kept = np.stack([each.kept for each in patterns])
    places = np.arange(call.tokens)
    orders = np.stack([places if each.order is None else each.order for each in patterns])
    moved = any(each.order is not None for each in patterns)
    return TileAttention(
        *(call.tokens, call.tokens, call.features),
        kept=kept,
        block=(entry.block, entry.block),
        orders=orders if moved else None,
    )


def _is_plain(query: Tensor, key: Tensor, mask: object, dropout: float, causal: bool) -> bool:
    """Whether a call is one that a plan may have: of tokens to themselves, without a mask."""
    same = query.shape[-2] == key.shape[-2] and query.dim() == len("BHLD")
    return same and mask is None and not dropout and not causal


def _given(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[tuple[Tensor, Tensor, Tensor, float | None], bool]:
    """What :class:`TileAttention` takes of a call, and whether it is one for it."""
    plain = _is_plain(query, key, attn_mask, dropout_p, is_causal)
    return (query, key, value, scale), plain


class _Recorder(TorchFunctionMode):  # type: ignore[misc]
    """Notes calls of attention over so many tokens, and of whom."""

    def __init__(self, tokens: set[int]) -> None:
        super().__init__()
        self.tokens = tokens
        self.owners: list[nn.Module] = []
        self.found: list[tuple[nn.Module, torch.Size]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            (query, *_), plain = _given(*args, **(kwargs or {}))
            if plain and query.shape[-2] in self.tokens:
                self.found.append((self.owners[-1], query.shape))
        return func(*args, **(kwargs or {}))


class _Instead(TorchFunctionMode):  # type: ignore[misc]
    """Computes attention of tokens to themselves by tiles."""

    def __init__(self, attention: TileAttention | OnlineAttention) -> None:
        super().__init__()
        self.attention = attention

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            given, plain = _given(*args, **(kwargs or {}))
            if plain:
                return self.attention(*given)
        return func(*args, **(kwargs or {}))


def _instead(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a module whose forward computes its attention by tiles."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _Instead(getattr(self, _ATTENTION)):
            return kind.forward(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})
