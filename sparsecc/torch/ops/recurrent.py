"""Recurrent layers, one step after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.table import Function, NodeView, Op

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]
"""The inputs' part of all gates ``[batch, gates · hidden]`` and the old state → the new state."""

_BARE: dict[str, Activation] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Tanh": torch.tanh,
}
_WITH_NUMBERS: dict[str, tuple[float, float, Callable[[Tensor, float, float], Tensor]]] = {
    "Affine": (1.0, 0.0, lambda x, a, b: a * x + b),
    "Elu": (1.0, 0.0, lambda x, a, b: functional.elu(x, a)),
    "HardSigmoid": (0.2, 0.5, lambda x, a, b: torch.clamp(a * x + b, 0, 1)),
    "LeakyRelu": (0.01, 0.0, lambda x, a, b: functional.leaky_relu(x, a)),
    "ScaledTanh": (1.0, 1.0, lambda x, a, b: a * torch.tanh(b * x)),
    "ThresholdedRelu": (1.0, 0.0, lambda x, a, b: x * (x > a)),
}
"""Name → default alpha and beta, and the function."""

_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The attributes of a recurrent layer, for all directions."""

    kind: str
    activations: Sequence[Activation]
    reversed: Sequence[bool]
    clip: float | None
    batch_first: bool
    flag: bool
    """LSTM: the forget gate is what the input gate is not; GRU: reset after the product."""

    def bounded(self, x: Tensor) -> Tensor:
        """What the activations are given."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


def _activations(node: NodeView, directions: int) -> list[Activation]:
    names = node.get("activations") or list(_DEFAULTS[node.node.op_type]) * directions
    alphas, betas = node.get("activation_alpha", []), node.get("activation_beta", [])
    found: list[Activation] = []
    for at, name in enumerate(names):
        name = next((known for known in (*_BARE, *_WITH_NUMBERS) if known == name), name)
        if name in _BARE:
            found.append(_BARE[name])
        elif name in _WITH_NUMBERS:
            alpha, beta, function = _WITH_NUMBERS[name]
            alpha = alphas[at] if at < len(alphas) else alpha
            beta = betas[at] if at < len(betas) else beta
            found.append(lambda x, f=function, a=alpha, b=beta: f(x, a, b))  # type: ignore[misc]
        else:
            raise node.refuse(f"activation {name!r}")
    return found


def _build(node: NodeView) -> Function:
    kind = node.node.op_type
    direction = node.get("direction", "forward")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    flag = node.get("input_forget" if kind == "LSTM" else "linear_before_reset", 0)
    node.ignore("hidden_size", "output_sequence")
    settings = Settings(
        kind,
        _activations(node, len(ways)),
        ways,
        node.get("clip"),
        bool(node.get("layout", 0)),
        bool(flag),
    )
    count = len(node.node.outputs)

    def run(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...] | Tensor:
        results = _layer(settings, x, w, r, [*rest, *[None] * (5 - len(rest))])
        return results[:count] if count > 1 else results[0]

    return run


def _layer(
    settings: Settings, x: Tensor, w: Tensor, r: Tensor, rest: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """All directions: every output ``[time, directions, batch, hidden]`` and the last states."""
    bias, lengths, first_h, first_c, peep = rest
    x = x.transpose(0, 1) if settings.batch_first else x
    hidden, batch = r.shape[-1], x.shape[1]
    firsts = []
    for first in (first_h, first_c)[: 2 if settings.kind == "LSTM" else 1]:
        if first is None:
            first = x.new_zeros((len(settings.reversed), batch, hidden))
        elif settings.batch_first:
            first = first.transpose(0, 1)
        firsts.append(first)
    outputs, lasts = [], []
    each = len(settings.activations) // len(settings.reversed)
    for way, backwards in enumerate(settings.reversed):
        acts = settings.activations[way * each : (way + 1) * each]
        b = None if bias is None else bias[way]
        gates, recurrent = (None, None) if b is None else b.chunk(2)
        cell = _CELLS[settings.kind](
            settings, acts, r[way], recurrent, None if peep is None else peep[way]
        )
        inputs = functional.linear(x, w[way], gates)
        made, last = _scan(cell, inputs, tuple(f[way] for f in firsts), lengths, backwards)
        outputs.append(made)
        lasts.append(last)
    y = torch.stack(outputs, 1)
    states = [torch.stack(parts) for parts in zip(*lasts, strict=True)]
    if settings.batch_first:
        y, states = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in states]
    return (y, *states)


def _scan(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None, backwards: bool
) -> tuple[Tensor, State]:
    """One direction over time; a sequence that has ended keeps its state and gives zeros."""
    steps = range(len(inputs))
    made: list[Tensor] = []
    for step in reversed(steps) if backwards else steps:
        new = cell(inputs[step], state)
        output = new[0]
        if lengths is not None:
            alive = (step < lengths).unsqueeze(-1)
            output = torch.where(alive, output, torch.zeros_like(output))
            new = tuple(torch.where(alive, a, b) for a, b in zip(new, state, strict=True))
        state = new
        made.append(output)
    return torch.stack(made[::-1] if backwards else made), state


def _rnn_cell(
    settings: Settings,
    acts: Sequence[Activation],
    r: Tensor,
    bias: Tensor | None,
    peep: Tensor | None,
) -> Cell:
    (act,) = acts
    return lambda x, state: (act(settings.bounded(x + functional.linear(state[0], r, bias))),)


def _gru_cell(
    settings: Settings,
    acts: Sequence[Activation],
    r: Tensor,
    bias: Tensor | None,
    peep: Tensor | None,
) -> Cell:
    """Gates in the order update, reset, hidden."""
    gate, act = acts
    hidden = r.shape[-1]
    r_gates, r_hidden = r.split([2 * hidden, hidden])
    b_gates, b_hidden = (None, None) if bias is None else bias.split([2 * hidden, hidden])

    def cell(x: Tensor, state: State) -> State:
        (h,) = state
        x_gates, x_hidden = x.split([2 * hidden, hidden], -1)
        both = x_gates + functional.linear(h, r_gates, b_gates)
        update, reset = gate(settings.bounded(both)).chunk(2, -1)
        if settings.flag:
            inner = reset * functional.linear(h, r_hidden, b_hidden)
        else:
            inner = functional.linear(reset * h, r_hidden, b_hidden)
        new = act(settings.bounded(x_hidden + inner))
        return ((1 - update) * new + update * h,)

    return cell


def _lstm_cell(
    settings: Settings,
    acts: Sequence[Activation],
    r: Tensor,
    bias: Tensor | None,
    peep: Tensor | None,
) -> Cell:
    """Gates in the order input, output, forget, cell; peepholes input, output, forget."""
    gate, act, last = acts
    looks = (None, None, None) if peep is None else peep.chunk(3)

    def bounded(x: Tensor, look: Tensor | None, c: Tensor) -> Tensor:
        return settings.bounded(x if look is None else x + look * c)

    def cell(x: Tensor, state: State) -> State:
        h, c = state
        i, o, f, new = (x + functional.linear(h, r, bias)).chunk(4, -1)
        i = gate(bounded(i, looks[0], c))
        f = 1 - i if settings.flag else gate(bounded(f, looks[2], c))
        c = f * c + i * act(settings.bounded(new))
        return gate(bounded(o, looks[1], c)) * last(c), c

    return cell


_CELLS = {"GRU": _gru_cell, "LSTM": _lstm_cell, "RNN": _rnn_cell}

OPS: dict[str, Op] = {kind: Op(_build, learned=(1, 2, 3), fixed=(5, 6)) for kind in _CELLS}
