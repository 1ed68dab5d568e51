"""A training step: micro-batches through the stages (1F1B), gradients, the update."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmarks.training import mesh as net
from benchmarks.training.mesh import Mesh
from benchmarks.training.model import Embedding, Experts, Head, Layer, Weights
from sparsecc.simulate.choice import stages
from sparsecc.simulate.model import Model

LEARNING_RATE = 1e-3


class Trainer:
    """The stage of one process and how it trains.

    Args:
        model: What is trained.
        mesh: Where this process is.
        dtype: Of all numbers.
    """

    def __init__(self, model: Model, mesh: Mesh, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.mesh, self.dtype = model, mesh, dtype
        choice, weights = mesh.choice, Weights(mesh, dtype)
        plan = stages(model, choice)
        stage = plan[mesh.stage]
        first = sum(len(each.layers) for each in plan[: mesh.stage])
        self.layers = nn.ModuleList(
            Layer(model, kind, weights, f"layer{first + index}")
            for index, kind in enumerate(stage.layers)
        )
        self.embedding = Embedding(model, weights) if stage.first else None
        self.head = Head(model, weights) if stage.last else None
        parts = [part for part in (self.layers, self.embedding, self.head) if part is not None]
        self.parameters = [each for part in parts for each in part.parameters()]
        routed = [
            each
            for part in self.layers.modules()
            if isinstance(part, Experts)
            for each in (*part.up, *part.down)
        ]
        self.routed = {id(each) for each in routed}
        whole = [each for layer in self.layers for each in layer.norms]
        whole += [each.router for each in self.layers.modules() if isinstance(each, Experts)]
        self.whole = whole
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)
        self.tokens = choice.micro_batch * model.sequence // choice.tensor
        self.rounds = model.batch // (mesh.data_size * choice.micro_batch)

    def step(self, batch: torch.Tensor) -> float:
        """Train on a batch [batch, sequence + 1] of token numbers.

        Returns:
            The mean loss before the update, in the last stage; elsewhere 0.
        """
        size = self.rounds * self.mesh.choice.micro_batch
        mine = batch[self.mesh.data_rank * size :][:size].split(self.mesh.choice.micro_batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._rounds(mine)
        others = [each for each in self.parameters if id(each) not in self.routed]
        net.sum_gradients(self.whole, self.mesh.tensor)
        net.sum_gradients(others, self.mesh.data)
        routed = [each for each in self.parameters if id(each) in self.routed]
        net.sum_gradients(routed, self.mesh.expert_data)
        self.optimizer.step()
        return loss

    def _rounds(self, micro: tuple[torch.Tensor, ...]) -> float:
        """All micro-batches: as many forward as there are stages behind, then one of each."""
        warm = min(self.rounds, self.mesh.choice.pipeline - 1 - self.mesh.stage)
        waiting: list[tuple[torch.Tensor | None, torch.Tensor]] = []
        sends: list[dist.Work | None] = []
        loss = 0.0
        for index in range(self.rounds + warm):
            if index < self.rounds:
                entered, left = self._forward(micro[index])
                waiting.append((entered, left))
                if self.mesh.after is not None:
                    sends.append(dist.isend(left.detach(), self.mesh.after))
                else:
                    loss += left.item()
            if index >= warm:
                sends.append(self._backward(*waiting.pop(0)))
        for send in sends:
            if send is not None:
                send.wait()
        return loss

    def _forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        entered = None
        if self.embedding is not None:
            x = self.embedding(tokens[:, :-1].flatten())
        else:
            entered = torch.empty(self.tokens, self.model.d, dtype=self.dtype)
            assert self.mesh.before is not None
            dist.recv(entered, self.mesh.before)
            x = entered.requires_grad_()
        for layer in self.layers:
            again = self.mesh.choice.recompute == "full"
            x = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        if self.head is not None:
            x = self.head(x, tokens[:, 1:].flatten()) / (self.model.batch * self.model.sequence)
        return entered, x

    def _backward(self, entered: torch.Tensor | None, left: torch.Tensor) -> dist.Work | None:
        if self.mesh.after is not None:
            grad = torch.empty_like(left)
            dist.recv(grad, self.mesh.after)
            left.backward(grad)
        else:
            left.backward()
        if entered is None or entered.grad is None:
            return None
        assert self.mesh.before is not None
        return dist.isend(entered.grad, self.mesh.before)
