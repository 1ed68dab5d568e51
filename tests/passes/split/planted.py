"""Feed-forward networks with experts in them that nobody wrote down, and tokens for these."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tests import small

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Planted:
    """A network ``y = x + down · act(up x [· gate]) + bias`` of clusters of neurons.

    Attributes:
        clusters: How many; tokens are near the direction of one of them.
        size: Neurons of each; they are mixed up.
        features: Of a token.
        activation: A standard op.
        gated: Whether a third layer multiplies what is activated.
        gemm: Whether layers are Gemm nodes over two-dimensional tokens.
        noise: Of the rows of a cluster about its direction.
        length: Tokens of a sample.
    """

    clusters: int = 16
    size: int = 32
    features: int = 64
    activation: str = "Relu"
    gated: bool = False
    gemm: bool = False
    noise: float = 0.5
    length: int = 24

    def _directions(self) -> Array:
        square = np.random.default_rng(0).standard_normal((self.features, self.features))
        return np.linalg.qr(square)[0][: self.clusters].astype(np.float32)

    def weights(self) -> dict[str, Array]:
        """``up [f, d]``, ``gate``, ``down [d, f]`` and biases."""
        rng, neurons = np.random.default_rng(1), self.clusters * self.size
        spread = self.noise * rng.standard_normal((self.clusters, self.size, self.features))
        up = self._directions()[:, None] + spread / self.features**0.5
        made = {
            "up": up.reshape(neurons, -1)[rng.permutation(neurons)],
            "gate": 1 + rng.standard_normal((neurons, self.features)) / self.features**0.5,
            "down": rng.standard_normal((self.features, neurons)) / neurons**0.5,
            "up_bias": np.full(neurons, -0.5),
            "gate_bias": rng.standard_normal(neurons) / 8,
            "down_bias": rng.standard_normal(self.features) / 8,
        }
        return {name: array.astype(np.float32) for name, array in made.items()}

    def model(self) -> onnx.ModelProto:
        """The network with a residual around it, over ``[n, length, d]``, or ``[n, d]`` of Gemm."""
        names = ["up", *["gate"] * self.gated, "down"]
        held = self.weights()
        held = {name: held[name] for part in names for name in (part, f"{part}_bias")}
        node, nodes = helper.make_node, list[onnx.NodeProto]()
        for name in names:
            source = ("product" if self.gated else "hidden") if name == "down" else "x"
            if self.gemm:
                read = [source, name, f"{name}_bias"]
                nodes.append(node("Gemm", read, [f"{name}_out"], name, transB=1))
            else:
                held[name] = held[name].T.copy()
                nodes.append(node("MatMul", [source, name], [f"{name}_raw"], name))
                sums = [f"{name}_raw", f"{name}_bias"]
                nodes.append(node("Add", sums, [f"{name}_out"], f"{name}_bias"))
            if name == "up":
                nodes.append(node(self.activation, ["up_out"], ["hidden"], "act"))
            if name == "gate":
                nodes.append(node("Mul", ["hidden", "gate_out"], ["product"], "times"))
        nodes.append(node("Add", ["x", "down_out"], ["y"], "residual"))
        shape: list[int | str] = (
            ["n", self.features] if self.gemm else ["n", self.length, self.features]
        )
        return small.model(nodes, {"x": shape}, {"y": shape}, held, opset=20)

    def tokens(self, count: int, seed: int = 0) -> Array:
        """Tokens ``[count, d]``, each near one direction."""
        rng, directions = np.random.default_rng(seed), self._directions()
        near = directions[rng.integers(self.clusters, size=count)] * 1.5
        noise = 0.1 * rng.standard_normal(near.shape)
        return (near + noise).astype(np.float32)

    def samples(self, count: int, seed: int = 0) -> dict[str, Array]:
        """Inputs of :meth:`model`."""
        tokens = self.tokens(self.length * count, seed)
        return {"x": tokens if self.gemm else tokens.reshape(count, self.length, self.features)}

    def variant(self, **more: object) -> Planted:
        """With other fields."""
        return dataclasses.replace(self, **more)  # type: ignore[arg-type]
