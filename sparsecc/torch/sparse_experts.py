"""Mixtures of experts as a torch operator, ``sparsecc::grouped_experts``.

On a GPU its forward is the launches of ``backends/cuda/experts``; elsewhere, and backward
everywhere, torch computes one expert after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsecc.backends.cuda.experts import Mixture, check, recipe
from sparsecc.backends.cuda.launch import arch_of, launch
from sparsecc.backends.cuda.recipe import dtype_of, run
from sparsecc.errors import BackendError
from sparsecc.torch import mixtures

USUAL_ARCH = "sm_90"
"""For which weights are checked where there is no GPU."""


class SparseExperts(nn.Module):  # type: ignore[misc]
    """``Σ_slot gates · (down_e · (act(up_e x + b) [· (gate_e x + b)]) + b)`` over chosen experts.

    The router is not part of it. Weights are not trained; tokens and gates have gradients.

    Args:
        up: ``[experts, inner, features]``, float16 or bfloat16: what is activated, which some
            models call their gate.
        down: ``[experts, features, inner]``.
        gate: As up, what the activated is multiplied by (SwiGLU); None: there is none.
        up_bias: ``[experts, inner]``; where one bias is given, others are zeros.
        gate_bias: As up_bias.
        down_bias: ``[experts, features]``.
        activation: A name of :data:`sparsecc.ops.activations.ACTIVATIONS`.

    Raises:
        BackendError: Shapes do not agree, or there are no kernels for such experts.
        TargetError: There are no kernels for the GPU that weights are on.
    """

    def __init__(
        self,
        up: Tensor,
        down: Tensor,
        gate: Tensor | None = None,
        *,
        up_bias: Tensor | None = None,
        gate_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        weights = {"up": up, "down": down} | ({} if gate is None else {"gate": gate})
        biases = {"up": up_bias, "gate": gate_bias, "down": down_bias}
        _check_weights(weights, biases)
        self.activation = activation
        if any(bias is not None for bias in biases.values()):
            for name, weight in weights.items():
                bias = biases[name]
                zeros = weight.new_zeros(weight.shape[:2])
                weights = weights | {f"{name}_bias": zeros if bias is None else bias}
        for name in _WEIGHTS:
            given = weights.get(name)
            self.register_buffer(
                name, None if given is None else given.detach().clone(memory_format=_DENSE)
            )
        self._check_kernels()

    def forward(self, x: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """``[..., features]``, like x.

        On a GPU a token with an expert that does not exist, or a gate that is NaN, becomes NaN,
        since an error would wait for the device; elsewhere it is one.

        Args:
            x: ``[..., features]``, of the type of the weights.
            experts: Int64 ``[..., slots]``, the experts of each token.
            gates: ``[..., slots]``, what their results are multiplied by.

        Raises:
            BackendError: Inputs of another type or shape.
        """
        features = self.down.shape[1]
        if x.shape[-1] != features or x.dtype != self.up.dtype:
            raise BackendError(
                f"x {list(x.shape)} of {x.dtype}", fix=f"give [..., {features}] of {self.up.dtype}"
            )
        slots = experts.shape[-1] if experts.dim() else 0
        wanted = [*x.shape[:-1], slots]
        if not slots or list(experts.shape) != wanted or list(gates.shape) != wanted:
            raise BackendError(
                f"experts {list(experts.shape)} and gates {list(gates.shape)} of x {list(x.shape)}",
                fix="give both as [..., slots], one slot at least, as many rows as x has",
            )
        if experts.dtype != torch.int64:
            raise BackendError(f"experts are {experts.dtype}", fix="give torch.int64")
        y = grouped_experts(
            *(x.reshape(-1, features), experts.reshape(-1, slots), gates.reshape(-1, slots)),
            *(getattr(self, name) for name in _WEIGHTS),
            self.activation,
        )
        return y.reshape(x.shape)

    def extra_repr(self) -> str:
        """What torch prints of it."""
        count, inner, features = self.up.shape
        gated = ", gated" * (self.gate is not None)
        return f"{count} experts, {features}, {inner}, {self.activation}{gated}, {self.up.dtype}"

    def _check_kernels(self) -> None:
        arch = arch_of(self.up.device) if self.up.is_cuda else USUAL_ARCH
        gated, biased = self.gate is not None, self.up_bias is not None
        check(_mixture(1, 1, self.up, gated, biased, self.activation, arch))


_DENSE = torch.contiguous_format
_WEIGHTS = ("up", "gate", "down", "up_bias", "gate_bias", "down_bias")
_INPUTS = ("x", "experts", "gates", *_WEIGHTS)
"""Tensors of the operator, in order."""


def _check_weights(weights: dict[str, Tensor], biases: dict[str, Tensor | None]) -> None:
    up = weights["up"]
    said = ", ".join(f"{name} {list(each.shape)}" for name, each in weights.items())
    turned = up.mT.shape if up.dim() == len("Efd") else None
    if any(
        each.shape != (turned if name == "down" else up.shape) for name, each in weights.items()
    ):
        raise BackendError(
            f"weights of experts that do not fit: {said}",
            fix="give up and gate [experts, inner, features], down [experts, features, inner]",
        )
    for name, bias in biases.items():
        if bias is not None and (name not in weights or bias.shape != weights[name].shape[:2]):
            raise BackendError(
                f"a bias {list(bias.shape)} of {name}, of {said}",
                fix="give [experts, outputs] for a weight that there is",
            )
    every = [*weights.values(), *(bias for bias in biases.values() if bias is not None)]
    kinds = {(each.dtype, each.device) for each in every}
    if len(kinds) > 1:
        raise BackendError(
            "weights and biases are " + " and ".join(sorted(f"{a} on {b}" for a, b in kinds)),
            fix="give one type on one device",
        )


_recipe = functools.lru_cache(maxsize=1024)(recipe)
"""The launches of a mixture, made once for as many tokens."""


def _mixture(
    tokens: int, slots: int, up: Tensor, gated: bool, biased: bool, activation: str, arch: str
) -> Mixture:
    count, inner, features = up.shape
    dtype = dtype_of(up)
    return Mixture(tokens, slots, count, features, inner, activation, gated, biased, dtype, arch)


@torch.library.custom_op("sparsecc::grouped_experts", mutates_args=())  # type: ignore[untyped-decorator]
def grouped_experts(
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    up: Tensor,
    gate: Tensor | None,
    down: Tensor,
    up_bias: Tensor | None,
    gate_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
) -> Tensor:
    """``[tokens, features]``, computed by torch in float32 or more.

    Args:
        x: ``[tokens, features]``.
        experts: Int64 ``[tokens, slots]``.
        gates: ``[tokens, slots]``.
        up: ``[experts, inner, features]``.
        gate: As up, or None.
        down: ``[experts, features, inner]``.
        up_bias: ``[experts, inner]``; biases are all given or none is.
        gate_bias: As up_bias.
        down_bias: ``[experts, features]``.
        activation: A name of ``ACTIVATIONS``.

    Raises:
        BackendError: An expert does not exist, or a gate is not a number.
    """
    if experts.numel() and not 0 <= int(experts.min()) <= int(experts.max()) < len(up):
        raise BackendError(
            f"an expert is outside of 0 … {len(up) - 1}", fix="choose among those that there are"
        )
    if gates.isnan().any():
        raise BackendError("a gate is not a number", fix="look at what the router is given")
    inputs = (x, experts, gates, up, gate, down, up_bias, gate_bias, down_bias)
    return mixtures.forward(_named(inputs), activation).to(x.dtype)


def _named(inputs: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Inputs of the operator by name, those that there are."""
    return {name: each for name, each in zip(_INPUTS, inputs, strict=True) if each is not None}


@grouped_experts.register_fake  # type: ignore[untyped-decorator]
def _fake(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@grouped_experts.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _cuda(
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    up: Tensor,
    gate: Tensor | None,
    down: Tensor,
    up_bias: Tensor | None,
    gate_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
) -> Tensor:
    gated, biased, arch = gate is not None, up_bias is not None, arch_of(x.device)
    tokens, slots = experts.shape
    mixture = _mixture(tokens, slots, up, gated, biased, activation, arch)
    out = x.new_empty(x.shape)
    given = {
        "X": x,
        "Experts": experts,
        "Gates": gates.float(),
        "Up": up,
        "Gate": gate,
        "Down": down,
        "UpBias": up_bias,
        "GateBias": gate_bias,
        "DownBias": down_bias,
        "Out": out,
    }
    tensors = {name: each.contiguous() for name, each in given.items() if each is not None}
    run(_recipe(mixture), tensors, launch)
    return out


@torch.library.custom_op("sparsecc::grouped_experts_backward", mutates_args=())  # type: ignore[untyped-decorator]
def grouped_experts_backward(
    grad: Tensor,
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    up: Tensor,
    gate: Tensor | None,
    down: Tensor,
    up_bias: Tensor | None,
    gate_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
    wanted: Sequence[int],
) -> list[Tensor]:
    """Gradients of the inputs at the places that are wanted; what is hidden is computed again."""
    inputs = _named((x, experts, gates, up, gate, down, up_bias, gate_bias, down_bias))
    made = mixtures.backward(grad, inputs, activation)
    return [made[_INPUTS[at]].to(inputs[_INPUTS[at]].dtype) for at in wanted]


@grouped_experts_backward.register_fake  # type: ignore[untyped-decorator]
def _fake_backward(
    grad: Tensor,
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    up: Tensor,
    gate: Tensor | None,
    down: Tensor,
    up_bias: Tensor | None,
    gate_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
    wanted: Sequence[int],
) -> list[Tensor]:
    inputs = _named((x, experts, gates, up, gate, down, up_bias, gate_bias, down_bias))
    return [inputs[_INPUTS[at]].new_empty(inputs[_INPUTS[at]].shape) for at in wanted]


def _save(ctx: object, inputs: tuple[object, ...], output: Tensor) -> None:
    *tensors, activation = inputs
    ctx.save_for_backward(*tensors)  # type: ignore[attr-defined]
    ctx.activation = activation  # type: ignore[attr-defined]


def _backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad  # type: ignore[attr-defined]
    wanted = [at for at, need in enumerate(needed) if need]
    saved, activation = ctx.saved_tensors, ctx.activation  # type: ignore[attr-defined]
    made = dict(
        zip(wanted, grouped_experts_backward(grad, *saved, activation, wanted), strict=True)
    )
    return tuple(made.get(at) for at in range(len(needed)))


grouped_experts.register_autograd(_backward, setup_context=_save)
