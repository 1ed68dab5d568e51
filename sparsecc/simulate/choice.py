"""How a model is spread over devices, and whether that goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.described import Count, Described
from sparsecc.simulate.model import Kind, Model

Recompute = Literal["none", "partial", "full"]
Exchange = Literal["flat", "hierarchical"]


class Choice(Described):
    """Degrees of parallelism and what goes with them.

    Devices are numbered with tensor parallelism inside, then data, then the pipeline. Whole experts
    are spread over ``tensor * expert`` devices, ``expert`` being a part of data parallelism.

    Attributes:
        tensor: Devices that share every matrix; between them tokens are shared too (sequence
            parallelism), and experts are whole.
        pipeline: Stages.
        virtual: Parts of each stage (interleaved 1F1B).
        expert: Data-parallel groups that share the experts.
        micro_batch: Sequences that go through the pipeline at once.
        recompute: What backward computes again instead of keeping it: ``partial`` is norms,
            activation functions, and queries, keys and values of latents.
        exchange: How tokens get to experts on other nodes: all-to-all, or an all-gather between
            nodes and an all-to-all inside.
        sharded: Whether the optimiser's state is spread over data-parallel devices.
    """

    tensor: Count = 1
    pipeline: Count = 1
    virtual: Count = 1
    expert: Count = 1
    micro_batch: Count = 1
    recompute: Recompute = "none"
    exchange: Exchange = "flat"
    sharded: bool = True

    def data(self, cluster: Cluster) -> int:
        """Data-parallel groups, where all devices are in use."""
        return cluster.devices // (self.tensor * self.pipeline)

    def micro_batches(self, model: Model, cluster: Cluster) -> int:
        """How many of them a step takes through each pipeline."""
        return model.batch // (self.data(cluster) * self.micro_batch)

    def __str__(self) -> str:
        text = f"TP{self.tensor} PP{self.pipeline} VPP{self.virtual} EP{self.expert}"
        return f"{text} MBS{self.micro_batch}"


@dataclass(frozen=True)
class Stage:
    """What one device of the pipeline does.

    Attributes:
        layers: Its layers, those of all its parts.
        first: Whether it has the embedding.
        last: Whether it has the head.
    """

    layers: tuple[Kind, ...]
    first: bool
    last: bool

    def kinds(self) -> Iterable[tuple[Kind, int]]:
        """Kinds of its layers, and how many there are of each."""
        return Counter(self.layers).items()


def stages(model: Model, choice: Choice) -> list[Stage]:
    """The stages of a pipeline: layers in order over all parts, as evenly as their number allows.

    Where they are not even, the last parts have fewer, because the head is there.
    """
    kinds, parts = model.kinds(), choice.pipeline * choice.virtual
    size, longer = divmod(len(kinds), parts)
    cuts = [part * size + min(part, longer) for part in range(parts + 1)]
    return [
        Stage(
            tuple(
                kind
                for part in range(stage, parts, choice.pipeline)
                for kind in kinds[cuts[part] : cuts[part + 1]]
            ),
            stage == 0,
            stage == choice.pipeline - 1,
        )
        for stage in range(choice.pipeline)
    ]


def objection(choice: Choice, model: Model, cluster: Cluster) -> str | None:
    """Why a choice does not go with a model and a cluster; None where it does."""
    heads = model.attention.kv_heads or model.attention.heads
    spread = choice.tensor * choice.expert
    width = model.shared * model.expert_width or model.expert_width
    devices, data = cluster.devices, max(1, choice.data(cluster))
    rounds = model.batch // (data * choice.micro_batch)
    rules: tuple[tuple[bool, str], ...] = (
        (
            devices % (choice.tensor * choice.pipeline) > 0,
            f"{choice.tensor} × {choice.pipeline} does not divide {devices} devices",
        ),
        (heads % choice.tensor > 0, f"{heads} heads do not divide over {choice.tensor} devices"),
        (
            (model.dense_width % choice.tensor or width % choice.tensor) > 0,
            f"widths {model.dense_width} and {width} do not divide over {choice.tensor} devices",
        ),
        (
            model.sequence * choice.micro_batch % choice.tensor > 0,
            f"{model.sequence} tokens do not divide over {choice.tensor} devices",
        ),
        (
            data % choice.expert > 0,
            f"{data} data-parallel groups are no multiple of {choice.expert}",
        ),
        (
            model.experts % spread > 0,
            f"{model.experts} experts do not divide over {spread} devices",
        ),
        (
            choice.pipeline * choice.virtual > len(model.kinds()),
            f"{choice.pipeline} × {choice.virtual} parts are more than {len(model.kinds())} layers",
        ),
        (
            model.batch % (data * choice.micro_batch) > 0,
            f"a batch of {model.batch} is no multiple of {data} × {choice.micro_batch}",
        ),
        (
            choice.virtual > 1 and (choice.pipeline == 1 or rounds % choice.pipeline > 0),
            f"{rounds} micro-batches are no multiple of {choice.pipeline} stages, which parts of "
            "stages need",
        ),
        (
            choice.exchange == "hierarchical" and spread <= cluster.devices_per_node,
            f"{spread} devices with experts are in one node: there is no exchange between nodes",
        ),
    )
    return next((why for wrong, why in rules if wrong), None)


__all__ = ["Choice", "Exchange", "Recompute", "Stage", "objection", "stages"]
