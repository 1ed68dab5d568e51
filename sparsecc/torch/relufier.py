"""Feed-forward activations that become ReLU while a module is trained.

Behind GELU or SiLU hardly any hidden feature is zero; behind ReLU most are, and what is zero need
not be computed (``sparsecc.compile(module, experts="0.25")``). Source: Mirzadeh et al., ReLU
Strikes Back (arXiv 2310.04564), whose "stage one" this is, blended in as by ProSparse (Song et al.,
arXiv 2402.13516).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsecc.errors import ModelError
from sparsecc.torch.schedules import check_span

Function = Callable[[Tensor], Tensor]
Place = tuple[nn.Module, str]
"""A module, and the name of its attribute that is an activation."""

FAR, CLOSE = 20.0, 0.1
"""An activation that, so far out, is so close to ReLU is a smooth form of it."""
CALLED = frozenset({"gelu", "silu", "mish"})
"""Functions that code may call in the place of a module."""


class Blended(nn.Module):  # type: ignore[misc]
    """(1 − t) f(x) + t max(x, 0); whoever trains sets ``share``, t."""

    def __init__(self, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.register_buffer("share", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The blend, element by element."""
        old = self.activation(x)
        result: Tensor = old + self.share.to(x.device) * (torch.relu(x) - old)
        return result


class Relufier:
    """Makes the feed-forward activations of a module ReLU while it is trained.

    What becomes ReLU is whatever is one already far from zero (GELU of any kind, SiLU, Mish, …)
    and stands in a module behind a linear layer of that module: as a module, as a function that is
    an attribute, or called in the code of ``forward``, which is then traced by ``torch.fx``; such
    a module can be saved by its ``state_dict``, and not as a whole.

    Call :meth:`step` after every ``optimizer.step()``. The old activation fades out in equal steps;
    from step ``end`` on the module holds plain ``nn.ReLU`` and nothing of this class.

    Attributes:
        steps: Steps done.
    """

    def __init__(self, module: nn.Module, end: int, begin: int = 0) -> None:
        """Find the activations and put blends in their place, which are still the old ones.

        Args:
            module: The module, changed in place.
            end: The step from which on activations are ReLU.
            begin: The last step at which they are the old ones.

        Raises:
            PlanError: It would end before it begins.
            ModelError: There is no such activation, or the code that calls one cannot be traced.
        """
        check_span(begin, end)
        self.steps, self._begin, self._end = 0, begin, end
        self._module = module
        _make_modules_of_calls(module)
        activations = _activations(module)
        if not activations:
            raise ModelError(
                "the module has no activation behind a linear layer that could become ReLU",
                fix="make it a module, such as nn.GELU(), beside the linear layers around it",
            )
        self._places = list(activations)
        for (owner, name), function in activations.items():
            _put(owner, name, Blended(function))

    @property
    def share(self) -> float:
        """Of ReLU in the blends, 0 to 1."""
        return min(max((self.steps - self._begin) / (self._end - self._begin), 0.0), 1.0)

    def step(self) -> None:
        """Count a step of training, and blend in more of ReLU."""
        self.steps += 1
        self._blend()

    def finish(self) -> None:
        """Make the activations plain ReLU, wherever the blending is."""
        self.steps = max(self.steps, self._end)
        self._blend()

    def densities(self, *inputs: Any, **named: Any) -> dict[str, float]:
        """Share of positive inputs of each activation: of hidden features that ReLU leaves.

        Args:
            inputs: Of the module, typical ones.
            named: The same, by name.

        Returns:
            Path of each activation that the module runs → share, 0 to 1.
        """
        counts: dict[str, list[int]] = {}
        held = {id(getattr(owner, name)) for owner, name in self._places}
        hooks = [
            child.register_forward_pre_hook(_counter(counts.setdefault(path, [0, 0])))
            for path, child in self._module.named_modules()
            if id(child) in held
        ]
        training = self._module.training
        try:
            with torch.no_grad():
                self._module.eval()(*inputs, **named)
        finally:
            self._module.train(training)
            for hook in hooks:
                hook.remove()
        return {path: positive / count for path, (positive, count) in counts.items() if count}

    def state_dict(self) -> dict[str, int]:
        """Steps done: with the states of module and optimiser all that resuming needs."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state.

        Raises:
            ModelError: It is none, or of fewer steps than this one has come to ReLU by.
        """
        steps = state.get("steps", -1)
        if not isinstance(steps, int) or steps < 0 or (self.share == 1 and steps < self._end):
            raise ModelError(
                f"no state to go on from: {dict(state)!r}",
                fix="load what state_dict() of a Relufier gave into a new one",
            )
        self.steps = steps
        self._blend()

    def _blend(self) -> None:
        for owner, name in self._places:
            held = getattr(owner, name)
            if isinstance(held, Blended):
                held.share.fill_(self.share)
                if self.share == 1:
                    _put(owner, name, nn.ReLU().train(held.training))


def _counter(counts: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts[0] += int((inputs[0] > 0).sum())
        counts[1] += inputs[0].numel()

    return count


def _put(owner: nn.Module, name: str, activation: nn.Module) -> None:
    setattr(owner, name, activation)
    if isinstance(owner, nn.TransformerEncoderLayer):
        # Its fast path goes by this number and not by the activation: 0 is neither ReLU nor GELU.
        owner.activation_relu_or_gelu = int(isinstance(activation, nn.ReLU))


def _activations(module: nn.Module) -> dict[Place, Function]:
    """Those that are attributes of modules, behind linear layers of these."""
    found: dict[Place, Function] = {}
    for owner in module.modules():
        behind = False
        for name, child in owner._modules.items():
            behind = behind or _is_linear(child)
            if behind and _is_activation(child):
                found[owner, name] = child
        if behind:
            plain = vars(owner).items()
            found |= {(owner, name): f for name, f in plain if _called(f) and _is_smooth(f)}
    return found


def _is_linear(child: nn.Module | None) -> bool:
    """A linear layer of any class; transformers' GPT-2 has one of its own."""
    weight = getattr(child, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(child, nn.Embedding)


def _is_activation(child: nn.Module | None) -> bool:
    if child is None or [*child.children(), *child.parameters()]:
        return False
    return _is_smooth(child.forward)


def _called(function: object) -> bool:
    return getattr(function, "__name__", None) in CALLED


def _is_smooth(function: Function) -> bool:
    """Whether a function of one tensor is ReLU far from zero, and not already near it."""
    x = torch.tensor([-FAR, -1.0, -0.5, 0.0, 0.5, 1.0, FAR])
    try:
        with torch.no_grad():
            y = function(x)
    except Exception:  # a module that takes something else is no activation
        return False
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return False
    off = (y - torch.relu(x)).abs()
    return bool(off[[0, -1]].max() < CLOSE and off.max() > 0)


class _Call(nn.Module):  # type: ignore[misc]
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.options = function, dict(options)

    def forward(self, x: Tensor) -> Tensor:
        """The function of a tensor."""
        return self.function(x, **self.options)


class _OwnCode(fx.Tracer):  # type: ignore[misc]
    """Traces what a module does itself, not what is in its children."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _make_modules_of_calls(module: nn.Module) -> None:
    """Let modules whose code calls activations have them as modules.

    As parametrisations do, a module gets a class of its own, below its old one.
    """
    for path, owner in module.named_modules():
        names = CALLED.intersection(inspect.unwrap(type(owner).forward).__code__.co_names)
        of_torch = type(owner).__module__.startswith("torch.")
        if of_torch or all(hasattr(owner, name) for name in names):
            continue
        if any(_is_linear(child) for child in owner.children()):
            graph = _traced(owner, path)
            calls = [n for n in graph.nodes if n.op == "call_function" and _called(n.target)]
            for at, node in enumerate(calls):
                _make_module(owner, f"activation_{at}", node)
            if calls:
                code = type(fx.GraphModule(owner, graph)).forward
                old = type(owner)
                owner.__class__ = type(old.__name__, (old,), {"forward": code})


def _make_module(owner: nn.Module, name: str, node: fx.Node) -> None:
    options = dict(node.kwargs)
    x = node.args[0] if node.args else options.pop("input")
    options.pop("inplace", None)
    owner.add_module(name, _Call(node.target, options))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (x,), {}


def _traced(owner: nn.Module, path: str) -> fx.Graph:
    try:
        return _OwnCode().trace(owner)
    except Exception as error:  # whatever its code does with values that are not there
        raise ModelError(
            f"activations that the code of {path or type(owner).__name__!r} calls cannot be made "
            f"modules: {error}",
            fix="make them modules, such as nn.GELU(), beside its linear layers",
        ) from error
