"""Small networks that a calibration compiles and runs: what a model takes besides its parts.

They are drawn, none is a network anybody uses: residual blocks with windows, inverted ones with
depthwise layers, and products between norms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc.formats.blocks import Block

NETWORKS = 24
"""How many are measured."""
BLOCKS: tuple[Block, ...] = ((4, 1), (1, 1), (1, 1))
DENSITIES = (0.06, 0.12, 0.2, 0.3)
OPSET, IR_VERSION = 17, 8
IMAGE = 4
"""Dimensions of one."""


@dataclass
class _Draft:
    """A network that is being drawn.

    Attributes:
        rng: Draws it.
        block: Of the zeros of its layers.
        density: Of these.
        sizes: Of the value at its end; channels or features first.
    """

    rng: np.random.Generator
    block: Block
    density: float
    sizes: tuple[int, ...]
    end: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, op: str, *others: str, source: str = "", **attributes: Any) -> str:
        """A node behind the end, or behind a source; it is the new end."""
        name = f"n{len(self.nodes)}"
        inputs = [source or self.end, *others]
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        self.end = name
        return name

    def constant(self, array: NDArray[np.floating]) -> str:
        """A constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, np.float32)
        return name

    def pruned(self, rows: int, cols: int) -> NDArray[np.float32]:
        """A weight ``[rows, cols]`` with blocks of zeros."""
        high, _ = self.block
        kept = self.rng.random((-(-rows // high), cols)) < self.density
        weight = self.rng.standard_normal((rows, cols)) / np.sqrt(cols * self.density)
        made: NDArray[np.float32] = (weight * np.repeat(kept, high, 0)[:rows]).astype(np.float32)
        return made

    def conv(self, rows: int, kernel: int = 1, stride: int = 1, source: str = "") -> str:
        """A convolution with zeros."""
        channels, side, _ = self.sizes
        weight = self.pruned(rows, channels * kernel**2).reshape(rows, channels, kernel, kernel)
        self.sizes = (rows, side // stride, side // stride)
        return self._window(weight, kernel, stride, 1, source)

    def depthwise(self, kernel: int, stride: int) -> str:
        """A depthwise convolution."""
        channels, side, _ = self.sizes
        weight = self.rng.standard_normal((channels, 1, kernel, kernel)) / kernel
        self.sizes = (channels, side // stride, side // stride)
        return self._window(weight.astype(np.float32), kernel, stride, channels, "")

    def _window(
        self, weight: NDArray[np.float32], kernel: int, stride: int, group: int, source: str
    ) -> str:
        bias = self.constant(np.zeros(len(weight)))
        where = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        operands = (self.constant(weight), bias)
        return self.add("Conv", *operands, source=source, kernel_shape=[kernel] * 2, **where)

    def product(self, rows: int) -> str:
        """A product of tokens, with zeros."""
        cols, tokens = self.sizes
        self.sizes = (rows, tokens)
        return self.add("MatMul", self.constant(self.pruned(rows, cols).T))


def network(seed: int) -> onnx.ModelProto:
    """A network of one input ``x`` and one output; another seed gives another."""
    rng = np.random.default_rng(seed)
    block, density = BLOCKS[seed // len(_KINDS) % len(BLOCKS)], float(rng.choice(DENSITIES))
    draft = _Draft(rng, block, density, ())
    shape = _KINDS[seed % len(_KINDS)](draft)
    # the last value is made small: what a model returns is copied, and few return so much
    draft.add("ReduceMean", axes=[2, 3] if len(shape) == IMAGE else [1], keepdims=0)
    graph = helper.make_graph(
        draft.nodes,
        f"network-{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(draft.end, TensorProto.FLOAT, [1, draft.sizes[0]])],
        [numpy_helper.from_array(array, name) for name, array in draft.constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _image(draft: _Draft, channels: tuple[int, ...], sides: tuple[int, ...]) -> list[int]:
    count, side = int(draft.rng.choice(channels)), int(draft.rng.choice(sides))
    draft.sizes = (count, side, side)
    return [1, count, side, side]


def _deep(draft: _Draft) -> list[int]:
    """Residual blocks: narrow, window, wide; from stage to stage smaller and wider."""
    shape = _image(draft, (64, 96, 160, 224), (32, 40, 48, 64))
    for _ in range(int(draft.rng.integers(1, 4))):
        wide = 2 * draft.sizes[0]
        shortcut = draft.conv(wide)
        for _ in range(int(draft.rng.integers(2, 5))):
            draft.conv(wide // 4)
            draft.add("Relu")
            draft.conv(wide // 4, kernel=3)
            draft.add("Relu")
            draft.conv(wide)
            draft.add("Add", shortcut)
            shortcut = draft.add("Relu")
        draft.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        channels, side, _ = draft.sizes
        draft.sizes = (channels, side // 2, side // 2)
    return shape


def _small(draft: _Draft) -> list[int]:
    """Inverted residual blocks: wide, depthwise, narrow."""
    shape = _image(draft, (24, 32, 48), (40, 64, 80, 96))
    for _ in range(int(draft.rng.integers(6, 13))):
        channels, side, _ = draft.sizes
        stride = 2 if side % 4 == 0 and draft.rng.random() < 0.35 else 1
        before = draft.end
        draft.conv(channels * int(draft.rng.choice((3, 4, 6))))
        draft.add("Relu")
        draft.depthwise(int(draft.rng.choice((3, 5))), stride)
        draft.add("Relu")
        draft.conv(channels if stride == 1 else 8 * round(channels / 5))
        if stride == 1 and before != "x":
            draft.add("Add", before)
    return shape


def _tokens(draft: _Draft) -> list[int]:
    """Two products and a norm, again and again."""
    features, tokens = int(draft.rng.choice((288, 448, 640))), int(draft.rng.choice((64, 96, 160)))
    draft.sizes = (features, tokens)
    for _ in range(int(draft.rng.integers(4, 11))):
        before = draft.end
        draft.product(features * int(draft.rng.choice((2, 3, 4))))
        draft.add("Relu")
        draft.product(features)
        draft.add("Add", before)
        scale, shift = draft.constant(np.ones(features)), draft.constant(np.zeros(features))
        draft.add("LayerNormalization", scale, shift)
    return [1, tokens, features]


_KINDS: tuple[Callable[[_Draft], list[int]], ...] = (_deep, _small, _tokens)
