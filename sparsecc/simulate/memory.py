"""Bytes of the device that needs the most of them."""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.simulate.choice import Choice, Stage, stages
from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.model import (
    Kind,
    Matrix,
    Model,
    attention_matrices,
    expert_parameters,
    head,
    matrices,
)

GRADIENT_BYTES = 4
"""Gradients are summed in float32."""
ADAM_BYTES = 8
"""Two moments of Adam."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a device.

    Attributes:
        weights: As products read them.
        gradients: Of all weights.
        optimizer: Its state, with a float32 copy of the weights where these are shorter.
        activations: Kept from forward to backward, of all micro-batches on their way.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def memory(model: Model, cluster: Cluster, choice: Choice) -> Memory:
    """What the device with the largest need takes."""
    every = (
        _stage(model, cluster, choice, index, stage)
        for index, stage in enumerate(stages(model, choice))
    )
    return max(every, key=lambda each: each.total)


def of_device(matrix: Matrix, tensor: int) -> float:
    """Numbers of a weight that one device has."""
    return matrix.parameters / (1 if matrix.split == "tokens" else tensor)


def layer_parameters(model: Model, choice: Choice, kind: Kind) -> tuple[float, float]:
    """Numbers that one device has of a layer: of experts, and of all else."""
    routed = 0 if kind == "dense" else model.experts * expert_parameters(model)
    rest = sum(of_device(each, choice.tensor) for each in matrices(model, kind))
    return routed / (choice.tensor * choice.expert), rest + model.norms * model.d


def stage_parameters(model: Model, choice: Choice, stage: Stage) -> tuple[float, float]:
    """Numbers that one device of a stage has: of experts, and of all else."""
    layers = [(n, *layer_parameters(model, choice, kind)) for kind, n in stage.kinds()]
    ends = (stage.first + stage.last) * of_device(head(model), choice.tensor)
    return sum(n * each for n, each, _ in layers), ends + sum(n * each for n, _, each in layers)


def state_bytes(model: Model) -> int:
    """Bytes of the optimiser's state for each number."""
    return ADAM_BYTES + (4 if model.item_bytes < 4 else 0)


def _stage(model: Model, cluster: Cluster, choice: Choice, index: int, stage: Stage) -> Memory:
    spread, rest = stage_parameters(model, choice, stage)
    data = choice.data(cluster)
    state = spread + rest
    if choice.sharded:
        state = spread / (data // choice.expert) + rest / data
    return Memory(
        weights=(spread + rest) * model.item_bytes,
        gradients=(spread + rest) * GRADIENT_BYTES,
        optimizer=state * state_bytes(model),
        activations=_activations(model, cluster, choice, index, stage),
    )


def _activations(model: Model, cluster: Cluster, choice: Choice, index: int, stage: Stage) -> float:
    """Of all micro-batches that have gone forward and not yet back (1F1B, interleaved or not)."""
    tokens = choice.micro_batch * model.sequence / choice.tensor
    kept = sum(n * kept_numbers(model, kind, choice.recompute) for kind, n in stage.kinds())
    rounds = choice.micro_batches(model, cluster)
    after = choice.pipeline - index - 1
    parts = (
        after + 1 if choice.virtual == 1 else 2 * after + (choice.virtual - 1) * choice.pipeline + 1
    )
    inflight = min(rounds * choice.virtual, parts) / choice.virtual
    whole = max((kept_numbers(model, kind, "none") for kind, _ in stage.kinds()), default=0.0)
    again = whole if choice.recompute != "none" else 0.0  # the layer that is computed again
    scores = model.vocabulary * 4 / model.item_bytes if stage.last else 0.0
    return tokens * model.item_bytes * (kept * inflight + again + scores)


def kept_numbers(model: Model, kind: Kind, recompute: str) -> float:
    """Numbers that a layer keeps for a token until backward, over all tensor-parallel devices."""
    d, a = model.d, model.attention
    if recompute == "full":
        return d
    width = model.dense_width if kind == "dense" else model.shared * model.expert_width
    routed = 0 if kind == "dense" else model.top_k
    seen = list(attention_matrices(model))
    made = sum(each.outputs for each in seen[:-1])
    hidden = width + routed * model.expert_width
    before = hidden * (2 if model.gated else 1)
    always = 3 * d + a.heads * a.value_dim + before + 2 * routed * d
    if recompute == "none":
        return always + made + hidden + model.norms * d
    return always + sum(each.outputs for each in seen[:-1] if not each.remade)


__all__ = [
    "GRADIENT_BYTES",
    "Memory",
    "kept_numbers",
    "layer_parameters",
    "memory",
    "of_device",
    "stage_parameters",
    "state_bytes",
]
