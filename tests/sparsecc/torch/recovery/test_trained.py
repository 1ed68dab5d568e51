"""What a recovery trains, and whose zeros it keeps, op by op."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from sparsecc.torch.recovery.trained import trained_names, weight_names
from tests import small

IMAGE = (2, 6, 8, 8)
CASES = {
    # op, shape of x, constants that follow it, attributes → trained, weights
    "convolution": ("Conv", IMAGE, {"w": (6, 6, 3, 3), "b": (6,)}, {}, "wb", "w"),
    "transposed": ("ConvTranspose", IMAGE, {"w": (6, 4, 2, 2), "b": (4,)}, {}, "wb", "w"),
    "product": ("MatMul", (2, 6), {"w": (6, 3)}, {}, "w", "w"),
    "batched": ("MatMul", (3, 2, 6), {"w": (3, 6, 4)}, {}, "w", "w"),
    "with a bias": ("Gemm", (2, 6), {"w": (6, 3), "b": (1, 3)}, {}, "wb", "w"),
    "recurrent": (
        "GRU",
        (5, 2, 4),
        {"w": (1, 9, 4), "r": (1, 9, 3), "b": (1, 18)},
        {"hidden_size": 3},
        "wrb",
        "wr",
    ),
    "slopes": ("PRelu", IMAGE, {"s": (6, 1, 1)}, {}, "s", ""),
    "norm": ("LayerNormalization", (2, 6), {"g": (6,), "b": (6,)}, {}, "gb", ""),
    "measured statistics": (
        "BatchNormalization",
        IMAGE,
        dict.fromkeys("gbmv", (6,)),
        {},
        "gb",
        "",
    ),
    "bias": ("Add", (2, 6), {"b": (6,)}, {}, "b", ""),
    "scale": ("Mul", IMAGE, {"s": (1, 6, 1, 1)}, {}, "s", ""),
    "a number": ("Mul", (2, 6), {"s": (1,)}, {}, "", ""),
    "a table added": ("Add", (2, 6), {"t": (2, 6)}, {}, "", ""),
    "a table looked up": ("GatherElements", (2, 6), {"t": (2, 6)}, {}, "", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_and_what_is_a_weight(case: str) -> None:
    op, shape, constants, attributes, trained, weights = CASES[case]
    kind = np.int64 if op == "GatherElements" else np.float32
    arrays = {name: np.ones(size, kind) for name, size in constants.items()}
    node = helper.make_node(op, ["x", *arrays], ["y"], "node", **attributes)
    model = ir.from_proto(small.model([node], {"x": shape}, {"y": [None] * len(shape)}, arrays))
    assert trained_names(model) == set(trained)
    assert weight_names(model) == set(weights)


def test_a_left_factor_is_a_weight() -> None:
    node = helper.make_node("MatMul", ["w", "x"], ["y"], "node")
    arrays = {"w": np.ones((3, 6), np.float32)}
    model = ir.from_proto(small.model([node], {"x": [6, 2]}, {"y": [3, 2]}, arrays))
    assert trained_names(model) == weight_names(model) == {"w"}


def test_what_is_read_as_something_else_too_is_not_trained() -> None:
    """An embedding table that is also the last layer: rows that are looked up stay as they are."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "node"),
        helper.make_node("Transpose", ["w"], ["z"], "turn"),
    ]
    arrays = {"w": np.ones((6, 3), np.float32)}
    model = ir.from_proto(small.model(nodes, {"x": [2, 6]}, {"y": [2, 3], "z": [3, 6]}, arrays))
    assert trained_names(model) == set()
