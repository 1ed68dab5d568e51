"""Gradients against autograd of the module a model was captured from, and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.capture import capture

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from sparsecc.torch import Interpreter  # noqa: E402
from tests.end_to_end import transformers  # noqa: E402

EPSILON = 1e-5
"""The ε of a normalization is an attribute, and so has single precision; all else has double."""


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.stem(x))
        x = nn.functional.max_pool2d(x + self.deep(x), 3, 2, 1, ceil_mode=True)
        x = nn.functional.interpolate(self.up(x), scale_factor=2.0, mode="bilinear")
        return self.head(x.mean((2, 3))).softmax(-1)


MODULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "cnn": (Cnn, (2, 3, 12, 12)),
    "encoder": (lambda: transformers.StackedBlock(True, True), (2, 5, transformers.WIDTH)),
    "packed": (transformers.PackedBlock, (2, 5, transformers.WIDTH)),
    "gru": (lambda: Recurrent(nn.GRU(6, 7, bidirectional=True)), (4, 2, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM(6, 7, 2)), (4, 2, 6)),
}


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_gradients_equal_those_of_the_module(name: str) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make().double().eval()
    with torch.no_grad():  # equal initial values (zeros) would become one constant when captured
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    x = torch.randn(shape, dtype=torch.float64)
    interpreter = Interpreter(capture(module, (x,)))
    y, (ours,) = module(x), interpreter({interpreter.inputs[0]: x}).values()
    torch.testing.assert_close(ours, y, atol=EPSILON, rtol=EPSILON)
    weight = torch.randn(y.shape, dtype=torch.float64)
    (y * weight).sum().backward()
    (ours * weight).sum().backward()
    theirs = dict(module.named_parameters())
    found = {n: p.grad for n, p in interpreter.weights.items() if p.grad is not None}
    shared = theirs.keys() & found.keys()
    assert len(shared) >= 2 or name in ("gru", "lstm")
    for each in shared:
        torch.testing.assert_close(found[each], theirs[each].grad, atol=EPSILON, rtol=EPSILON)
    total = sum(float(p.grad.square().sum()) for p in theirs.values())
    mine = sum(float(g.square().sum()) for g in found.values())
    assert mine == pytest.approx(total, rel=EPSILON)


def _differences(model: Any, shape: tuple[int, ...], seed: int = 0) -> bool:
    """Whether gradients of a model in double precision equal finite differences."""
    interpreter = Interpreter(ir.from_proto(model))
    x = torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(seed))
    weights = interpreter.weights

    def function(x: torch.Tensor, *arrays: torch.Tensor) -> torch.Tensor:
        return interpreter({"x": x, **dict(zip(weights, arrays, strict=True))})["y"]

    given = (x.requires_grad_(), *(w.detach().requires_grad_() for w in weights.values()))
    return torch.autograd.gradcheck(function, given)


def _model(nodes: list[Any], weights: dict[str, Any]) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, None)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


_batch_norm = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])

CHECKED: dict[str, tuple[list[Any], dict[str, Any], tuple[int, ...]]] = {
    "conv": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[0, 1, 2, 1], strides=[2, 1])],
        {"w": _random(4, 2, 3, 2), "b": _random(4)},
        (1, 2, 5, 4),
    ),
    "pool": (
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3], pads=[1, 0], ceil_mode=1)],
        {},
        (1, 2, 6),
    ),
    "resize": (
        [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic", antialias=1)],
        {"s": np.array([1, 1, 0.6, 1.7], np.float32)},
        (1, 1, 5, 4),
    ),
    "gather": (
        [
            helper.make_node("Gather", ["x", "i"], ["a"], axis=1),
            helper.make_node("ScatterElements", ["w", "i", "u"], ["b"], axis=0, reduction="add"),
            helper.make_node("Mul", ["a", "b"], ["y"]),
        ],
        {"w": _random(3), "u": _random(3), "i": np.array([1, -1, 1])},
        (2, 3),
    ),
    "loop": (
        [
            helper.make_node(
                "Loop",
                ["n", "", "x"],
                ["y"],
                body=helper.make_graph(
                    [
                        helper.make_node("Identity", ["c"], ["d"]),
                        helper.make_node("MatMul", ["s", "w"], ["t"]),
                        helper.make_node("Tanh", ["t"], ["r"]),
                    ],
                    "body",
                    [
                        helper.make_tensor_value_info("k", TensorProto.INT64, []),
                        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                        helper.make_tensor_value_info("s", TensorProto.DOUBLE, None),
                    ],
                    [
                        helper.make_tensor_value_info("d", TensorProto.BOOL, []),
                        helper.make_tensor_value_info("r", TensorProto.DOUBLE, None),
                    ],
                ),
            )
        ],
        {"w": _random(3, 3), "n": np.array(3)},
        (2, 3),
    ),
    "batch norm": (
        [_batch_norm],
        {"g": _random(3), "b": _random(3), "m": _random(3), "v": _random(3) ** 2 + 1},
        (2, 3, 4),
    ),
    "norm": (
        [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-2)],
        {"g": _random(3, 4), "b": _random(3, 4)},
        (2, 3, 4),
    ),
}


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_gradients_equal_finite_differences(name: str) -> None:
    nodes, weights, shape = CHECKED[name]
    assert _differences(_model(nodes, weights), shape)
