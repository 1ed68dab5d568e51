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
                found[module] = path
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


def _of_list(module: nn.Module) -> Callable[..., Tensor] | None:
    """For a router and a list of experts of one class, where that is what the module computes."""
    import torch

    lists = [
        child
        for child in module.children()
        if isinstance(child, torch.nn.ModuleList) and _are_alike(list(child))
    ]
    others = [child for child in module.children() if child not in lists]
    width = _features(lists[0][0]) if len(lists) == 1 else None
    if width is None:
        return None
    for router in others:
        shared = [child for child in others if child is not router]
        forward = partial(_listed, list(lists[0]), router, shared)
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


def _listed(experts: list[nn.Module], router: nn.Module, shared: list[nn.Module], x: Tensor) -> Any:
    """The chosen experts' sum, and what other children make of all tokens."""
    chosen, gates = _routed(router(x))
    tokens = x.reshape(-1, x.shape[-1])
    chosen, gates = (each.reshape(-1, each.shape[-1]) for each in (chosen, gates))
    total = sum(
        expert(tokens) * (gates * (chosen == e)).sum(-1, keepdim=True)
        for e, expert in enumerate(experts)
    )
    return total.reshape(x.shape) + sum(each(x) for each in shared)


def _routed(output: Any) -> tuple[Tensor, Tensor]:
    """The experts and their gates, among what a router gives.

    Raises:
        ValueError: It gives something else.
    """
    import torch

    parts = [each for each in output if isinstance(each, torch.Tensor)]
    whole = [each for each in parts if each.dtype == torch.int64]
    if len(whole) == 1:
        gates = [e for e in parts if e.is_floating_point() and e.shape == whole[0].shape]
        if len(gates) == 1:
            return whole[0], gates[0]
    raise ValueError("a router that does not give experts and their gates")


def _agree(module: nn.Module, forward: Callable[..., Tensor], count: int, width: int) -> bool:
    """Whether a form computes what the module does, for random tokens and for one many times."""
    import torch

    generator = torch.Generator().manual_seed(count)
    drawn = torch.randn(1, count, width, generator=generator)
    like = next(module.parameters())
    try:
        for x in (drawn, drawn[:, :1].expand(1, count, width).contiguous()):
            x = x.to(like.device, like.dtype)
            wanted = module(x)
            torch.testing.assert_close(
                forward(x), wanted, rtol=_TOLERANCE, atol=_TOLERANCE * float(wanted.abs().max())
            )
    except Exception:  # whatever a module raises that is something else
        return False
    return True


__all__ = ["REWRITTEN", "every_expert"]
