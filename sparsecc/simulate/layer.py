"""What one device does in a layer for one micro-batch: seconds, by part and by what is sent."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from sparsecc.simulate import collectives as net
from sparsecc.simulate import costs
from sparsecc.simulate.choice import Choice, Stage
from sparsecc.simulate.cluster import Cluster, Traffic
from sparsecc.simulate.load import heaviest
from sparsecc.simulate.memory import GRADIENT_BYTES, layer_parameters, of_device
from sparsecc.simulate.model import (
    Kind,
    Matrix,
    Model,
    attention_matrices,
    head,
    matrices,
)

COUNT_BYTES = 8
"""Of the number of tokens that one device sends to an expert."""


@dataclass
class Pass:
    """Forward or backward through a layer.

    Attributes:
        compute: Seconds by part of a step.
        sent: Seconds by what is sent, before any of it is hidden.
    """

    compute: dict[str, float] = field(default_factory=dict)
    sent: dict[Traffic, float] = field(default_factory=dict)


class Layers:
    """Times of the layers of a model on the devices of a cluster, each computed once."""

    def __init__(self, model: Model, cluster: Cluster, choice: Choice) -> None:
        self.model, self.cluster, self.choice = model, cluster, choice
        self.tokens = choice.micro_batch * model.sequence
        """Of a micro-batch; a device has this over ``tensor`` of them outside of its matrices."""
        self._layer = functools.cache(self._make)

    def layer(self, kind: Kind) -> tuple[Pass, Pass]:
        """Forward and backward, with what is computed again in backward."""
        return self._layer(kind)

    def ends(self, stage: Stage) -> list[Pass]:
        """The embedding, the head, and what goes to and comes from other stages."""
        found = [self._head()] if stage.last else []
        if stage.first:
            found.append(self._embedding())
        heads = sum(kind == "predictor" for kind in stage.layers)
        return found + [self._head()] * heads + [self._between()] * (self.choice.pipeline > 1)

    def _make(self, kind: Kind) -> tuple[Pass, Pass]:
        model, choice = self.model, self.choice
        forward = Pass(
            {
                "products": sum(self._product(each) for each in matrices(model, kind)),
                "attention": self._attention(backward=False),
                "streaming": costs.streaming(self.cluster.device, self._streamed(kind)),
            },
            self._tensor_sent(kind),
        )
        backward = Pass(
            {
                "products": sum(
                    self._product(each, backward=True) for each in matrices(model, kind)
                ),
                "attention": self._attention(backward=True),
                "streaming": costs.streaming(self.cluster.device, 2 * self._streamed(kind)),
            },
            dict(forward.sent),
        )
        if kind != "dense":
            self._add_experts(forward, backward)
        backward.compute["streaming"] += self._summed(sum(layer_parameters(model, choice, kind)))
        if choice.recompute == "full":
            backward.compute["recomputation"] = sum(forward.compute.values())
            backward.sent = {name: 2 * seconds for name, seconds in backward.sent.items()}
        if choice.recompute == "partial":
            again = [each for each in attention_matrices(model) if each.remade]
            made = sum(self._product(each) for each in again)
            backward.compute["recomputation"] = made + forward.compute["streaming"]
        return forward, backward

    def _product(self, matrix: Matrix, *, backward: bool = False) -> float:
        cost = costs.product_backward if backward else costs.product
        tensor = self.choice.tensor
        m, k, n = float(self.tokens), float(matrix.inputs), float(matrix.outputs)
        sides = {
            "tokens": (m / tensor, k, n),
            "inputs": (m, k / tensor, n),
            "outputs": (m, k, n / tensor),
        }
        return cost(self.cluster.device, self.model, *sides[matrix.split])

    def _attention(self, *, backward: bool) -> float:
        heads = self.model.attention.heads / self.choice.tensor
        return costs.attention(
            self.cluster.device, self.model, self.choice.micro_batch, heads, backward=backward
        )

    def _streamed(self, kind: Kind) -> float:
        """Bytes read and written by norms, residuals, activation functions and the routing."""
        model = self.model
        routed = 0 if kind == "dense" else model.top_k
        width = model.dense_width if kind == "dense" else model.shared * model.expert_width
        hidden = (width + routed * model.expert_width) * (3 if model.gated else 2)
        # A norm reads and writes; a residual reads two and writes one; tokens are copied to their
        # experts and added up again.
        numbers = 2 * model.norms * model.d + 6 * model.d + hidden + 4 * routed * model.d
        return self.tokens / self.choice.tensor * numbers * model.item_bytes

    def _tensor_sent(self, kind: Kind) -> dict[Traffic, float]:
        """Around each half of a layer that matrices are shared in: gather tokens, sum them up."""
        model = self.model
        if self.choice.tensor == 1:
            return {}
        a = model.attention
        latent = a.query_rank + a.latent_rank + a.position_dim
        gathered = [latent or model.d]
        if kind == "dense" or model.shared:
            gathered.append(model.d)
        return {"tensor": sum(self._shared(width) for width in gathered)}

    def _shared(self, width: int) -> float:
        """Tokens of all tensor-parallel devices gathered, so wide, and what they make summed up."""
        group = net.group(self.cluster, self.choice.tensor)
        item = self.tokens * self.model.item_bytes
        summed = net.reduce_scatter(self.cluster, group, item * self.model.d)
        return net.all_gather(self.cluster, group, item * width) + summed

    def _add_experts(self, forward: Pass, backward: Pass) -> None:
        model, choice, cluster = self.model, self.choice, self.cluster
        spread = choice.tensor * choice.expert
        tokens = self.tokens * choice.expert
        loads = heaviest(model, spread, tokens, by_load=cluster.placed_by_load)
        mean = tokens * model.top_k / spread
        even = [mean / len(loads)] * len(loads)
        for one, back in ((forward, False), (backward, True)):
            worst = costs.experts(cluster.device, model, loads, backward=back)
            one.compute["experts"] = min(
                worst, costs.experts(cluster.device, model, even, backward=back)
            )
            one.compute["imbalance"] = worst - one.compute["experts"]
            if spread > 1:
                members = net.group(cluster, spread)
                one.sent["expert"] = 2 * net.expert_exchange(
                    cluster,
                    model,
                    members,
                    self.tokens / choice.tensor,
                    sum(loads) / mean,
                    hierarchical=choice.exchange == "hierarchical",
                )
                if not back:  # how many tokens will come, before any of them
                    counts = model.experts * COUNT_BYTES
                    one.sent["expert"] += net.all_to_all(cluster, members, counts)

    def _summed(self, numbers: float) -> float:
        """Adding a micro-batch's gradients to those of the ones before it: two reads, a write."""
        return costs.streaming(self.cluster.device, 3 * GRADIENT_BYTES * numbers)

    def _embedding(self) -> Pass:
        summed = self._summed(of_device(head(self.model), self.choice.tensor))
        shared = self.choice.tensor > 1
        return Pass({"streaming": summed}, {"tensor": self._shared(self.model.d)} if shared else {})

    def _head(self) -> Pass:
        """Scores of all tokens, their loss, and both backward."""
        matrix, model = head(self.model), self.model
        scores = self.tokens * model.vocabulary / self.choice.tensor * 4
        one = Pass(
            {
                "products": self._product(matrix) + self._product(matrix, backward=True),
                "streaming": costs.streaming(self.cluster.device, 5 * scores)
                + self._summed(of_device(matrix, self.choice.tensor)),
            }
        )
        if self.choice.tensor > 1:
            # Of every token the largest score, the sum of all and the one of the target.
            group = net.group(self.cluster, self.choice.tensor)
            sums = 3 * net.all_reduce(self.cluster, group, 4 * self.tokens)
            one.sent["tensor"] = self._shared(model.d) + sums
        return one

    def _between(self) -> Pass:
        """A micro-batch from and to the other stages, once for each part of the stage."""
        choice, model = self.choice, self.model
        spacing = choice.tensor * choice.data(self.cluster)
        size = self.tokens / choice.tensor * model.d * model.item_bytes
        far = spacing >= self.cluster.devices_per_node
        once = net.point_to_point(self.cluster, size, between_nodes=far)
        return Pass({}, {"pipeline": 2 * choice.virtual * once})


__all__ = ["Layers", "Pass"]
