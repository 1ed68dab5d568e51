"""Mixtures of experts whose code torch.export cannot trace, written so that it can.

Code of a mixture sorts tokens by expert and loops over the experts that have any: how many turns,
on how many rows, depends on data. While a module is exported, every expert is applied to every
token, times a gate that is zero where it was not chosen. That is the same function, and what the
exporter writes of it becomes one op later (`passes/moe`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

from sparsecc.passes.moe import REWRITTEN

if TYPE_CHECKING:
    from torch import Tensor, nn

_INTERFACE = ("_apply_gate", "has_bias", "has_gate", "has_post_expert_norm", "is_transposed")
"""What transformers gives a module that holds the weights of all experts, since version 5."""
_PROBED_TOKENS = (1, 7, 96)
"""Numbers of random tokens on which the traceable form is compared with the module's own."""
_TOLERANCE = 1e-4


@contextlib.contextmanager
def every_expert(model: nn.Module, *, listed: bool) -> Iterator[list[str]]:
    """Let mixtures of experts compute in a form that can be exported.

    Args:
        model: Put back as it was at the end.
        listed: Also those that list their experts as modules beside a router.

    Yields:
        The paths of the modules that compute in that form.
    """
    found: dict[nn.Module, str] = {}
    try:
        for path, module in model.named_modules():
            forward = _of_stack(module) or (_of_list(module) if listed else None)
            if forward is not None and "forward" not in vars(module):
                module.forward = forward
                found[module] = path or type(module).__name__
        yield list(found.values())
    finally:
        for module in found:
            del module.forward


def _of_stack(module: nn.Module) -> Callable[..., Tensor] | None:
    """For weights in stacks, of the interface of transformers."""
    if not all(hasattr(module, name) for name in _INTERFACE) or not hasattr(module, "down_proj"):
        return None
    return partial(_stacked, module)


def _stacked(module: Any, tokens: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
    """What experts with stacked weights give for tokens ``[T, d]``, chosen and gates ``[T, k]``."""
    import torch

    first = "gate_up_proj" if module.has_gate else "up_proj"
    # Of weights that are stored [experts, inputs, outputs], or the other way round.
    axes = ("edf", "efd") if module.is_transposed else ("efd", "edf")

    def product(name: str, equation: str, x: Tensor) -> Tensor:
        made = torch.einsum(equation, x, getattr(module, name))
        return made + getattr(module, f"{name}_bias")[:, None] if module.has_bias else made

    hidden = product(first, f"td,{axes[0]}->etf", tokens)
    hidden = module._apply_gate(hidden) if module.has_gate else module.act_fn(hidden)
    made = product("down_proj", f"etf,{axes[1]}->etd", hidden)
    if module.has_post_expert_norm:
        made = module.post_expert_norm(made)
    hot = chosen.unsqueeze(-1) == torch.arange(len(made), device=chosen.device)
    dense = (hot * gates.unsqueeze(-1)).sum(1)
    return (made * dense.t().unsqueeze(-1)).sum(0).to(tokens.dtype)


# ---- experts that are modules, in a list beside a router ----
_Route = Callable[["Tensor"], "tuple[Tensor, Tensor]"]
"""Tokens ``[..., d]`` → chosen experts and their gates ``[..., k]``."""
_ROUTERS = (
    *(("softmax", None), ("softmax", "sum"), ("sigmoid", None), ("sigmoid", "sum")),
    *((None, "softmax"),),
)
"""What is done to scores before the best are taken, and to the best."""


def _of_list(module: nn.Module) -> Callable[..., Any] | None:
    """For a router and a list of experts of one class, where that is what the module computes."""
    import torch

    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    lists = [child for child in children if isinstance(child, torch.nn.ModuleList)]
    experts = list(lists[0]) if len(lists) == 1 else []
    width = _features(experts[0]) if _are_alike(experts) else None
    chosen = _chosen(module, experts, width) if width is not None else None
    if width is None or chosen is None:
        return None
    for router in children:
        others = [child for child in children if child not in (router, lists[0])]
        for route, rest in product(_routes(router, chosen), _rests(others)):
            for pair in (None, router):
                forward = partial(_listed, experts, route, rest, pair)
                if all(_agree(module, forward, count, width) for count in _PROBED_TOKENS):
                    return forward
    return None


def _are_alike(experts: list[nn.Module]) -> bool:
    """Whether there are several modules, of one class and with weights of the same shapes."""
    kinds = {
        (type(each), tuple((name, p.shape) for name, p in each.named_parameters()))
        for each in experts
    }
    return len(experts) > 1 and len(kinds) == 1


def _features(expert: nn.Module) -> int | None:
    """The size of a token, of the first weight of an expert."""
    return next((int(p.shape[-1]) for p in expert.parameters() if p.ndim == 2), None)


def _chosen(module: nn.Module, experts: list[nn.Module], width: int) -> int | None:
    """How many experts get each token."""
    rows: list[int] = []
    count = max(_PROBED_TOKENS)
    hooks = [
        expert.register_forward_hook(lambda _, args, made: rows.append(args[0].numel() // width))
        for expert in experts
    ]
    try:
        module(_drawn(module, count, width))
    except Exception:  # a module that takes something else than tokens raises anything
        return None
    finally:
        for hook in hooks:
            hook.remove()
    chosen, rest = divmod(sum(rows), count)
    return chosen if 0 < chosen <= len(experts) and not rest else None


def _routes(router: nn.Module, chosen: int) -> Iterator[_Route]:
    """What a router may be: one that says experts and gates, or one whose scores say them."""
    yield partial(_told, router)
    for before, after in _ROUTERS:
        yield partial(_scored, router, chosen, before, after)


def _told(router: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    parts = [each for each in router(x) if isinstance(each, torch.Tensor)]
    (whole,) = [each for each in parts if each.dtype == torch.int64]
    (gates,) = [each for each in parts if each.is_floating_point() and each.shape == whole.shape]
    return whole, gates


def _scored(
    router: nn.Module, chosen: int, before: str | None, after: str | None, x: Tensor
) -> tuple[Tensor, Tensor]:
    scores = router(x)
    if before is not None:
        scores = scores.softmax(-1) if before == "softmax" else scores.sigmoid()
    gates, best = scores.topk(chosen, dim=-1)
    if after is not None:
        gates = gates.softmax(-1) if after == "softmax" else gates / gates.sum(-1, keepdim=True)
    return best, gates


def _rests(others: list[nn.Module]) -> Iterator[Callable[[Tensor], Any]]:
    """What is added to the experts: all other children, or one times a sigmoid of another."""
    yield lambda x: sum(each(x) for each in others)
    if len(others) == 2:
        for scores, shared in permutations(others):
            yield partial(_gated, scores, shared)


def _gated(scores: nn.Module, shared: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = scores(x).sigmoid() * shared(x)
    return made


def _listed(
    experts: list[nn.Module],
    route: _Route,
    rest: Callable[[Tensor], Any],
    router: nn.Module | None,
    x: Tensor,
) -> Any:
    """The chosen experts' sum and what is added; with a router, its scores of tokens as well."""
    tokens = x.reshape(-1, x.shape[-1])
    best, gates = (each.reshape(-1, each.shape[-1]) for each in route(x))
    total = sum(
        expert(tokens) * (gates * (best == e)).sum(-1, keepdim=True)
        for e, expert in enumerate(experts)
    )
    made = total.reshape(x.shape) + rest(x)
    return made if router is None else (made, router(tokens))


def _drawn(module: nn.Module, count: int, width: int) -> Tensor:
    """Random tokens for a module."""
    import torch

    like = next(module.parameters())
    drawn = torch.randn(1, count, width, generator=torch.Generator().manual_seed(count))
    return drawn.to(like.device, like.dtype)


def _agree(module: nn.Module, forward: Callable[..., Any], count: int, width: int) -> bool:
    """Whether a form computes what the module does, for random tokens and for one many times."""
    import torch

    drawn = _drawn(module, count, width)
    try:
        for x in (drawn, drawn[:, :1].expand(1, count, width).contiguous()):
            wanted = module(x)
            largest = float((wanted[0] if isinstance(wanted, tuple) else wanted).abs().max())
            torch.testing.assert_close(
                forward(x), wanted, rtol=_TOLERANCE, atol=_TOLERANCE * largest
            )
    except Exception:  # whatever a module raises that is something else
        return False
    return True


__all__ = ["REWRITTEN", "every_expert"]
