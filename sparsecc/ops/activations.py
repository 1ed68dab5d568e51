"""The activations a sparse op can fuse: name, numpy meaning and ONNX body, each declared once.

The position in :data:`ACTIVATIONS` is the code of the activation in the C kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.special import erf, expit

Array = NDArray[np.floating]
Body = Callable[[str, str], list[onnx.NodeProto]]
"""Nodes that compute ``output`` from ``input``, given the two names; valid from opset 11."""


@dataclass(frozen=True)
class Activation:
    """One activation: its name, what it means in numpy, and its body in standard ops."""

    name: str
    meaning: Callable[[Array], Array]
    body: Body


def _constant(name: str, value: float) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.array(value, np.float32))
    return helper.make_node("Constant", [], [name], value=tensor)


def _identity_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Identity", [x], [y])]


def _relu_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", [x], [y])]


def _relu6_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        _constant("zero", 0.0),
        _constant("six", 6.0),
        helper.make_node("Clip", [x, "zero", "six"], [y]),
    ]


def _sigmoid_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Sigmoid", [x], [y])]


def _silu_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Sigmoid", [x], ["gate"]), helper.make_node("Mul", [x, "gate"], [y])]


def _hardsigmoid_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("HardSigmoid", [x], [y], alpha=1.0 / 6.0, beta=0.5)]


def _hardswish_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [*_hardsigmoid_body(x, "gate"), helper.make_node("Mul", [x, "gate"], [y])]


def _half_of_one_plus(gate: str, x: str, y: str) -> list[onnx.NodeProto]:
    return [
        _constant("one", 1.0),
        _constant("half", 0.5),
        helper.make_node("Add", [gate, "one"], ["one_plus"]),
        helper.make_node("Mul", [x, "one_plus"], ["twice"]),
        helper.make_node("Mul", ["twice", "half"], [y]),
    ]


def _gelu_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        _constant("root2", float(np.sqrt(2.0))),
        helper.make_node("Div", [x, "root2"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["gate"]),
        *_half_of_one_plus("gate", x, y),
    ]


_TANH_SCALE = float(np.sqrt(2.0 / np.pi))
_TANH_CUBIC = 0.044715


def _gelu_tanh_body(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        _constant("scale", _TANH_SCALE),
        _constant("cubic", _TANH_CUBIC),
        helper.make_node("Mul", [x, x], ["square"]),
        helper.make_node("Mul", ["square", x], ["cube"]),
        helper.make_node("Mul", ["cube", "cubic"], ["bent"]),
        helper.make_node("Add", [x, "bent"], ["inner"]),
        helper.make_node("Mul", ["inner", "scale"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["gate"]),
        *_half_of_one_plus("gate", x, y),
    ]


def _hardsigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def _gelu_tanh(x: Array) -> Array:
    inner: Array = _TANH_SCALE * (x + _TANH_CUBIC * x**3)
    result: Array = 0.5 * x * (1 + np.tanh(inner))
    return result


ACTIVATIONS: tuple[Activation, ...] = (
    Activation("none", lambda x: x, _identity_body),
    Activation("relu", lambda x: np.maximum(x, 0), _relu_body),
    Activation("relu6", lambda x: np.clip(x, 0, 6), _relu6_body),
    Activation("hardswish", lambda x: x * _hardsigmoid(x), _hardswish_body),
    Activation("silu", lambda x: x * expit(x), _silu_body),
    Activation("gelu", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2.0))), _gelu_body),
    Activation("gelu_tanh", _gelu_tanh, _gelu_tanh_body),
    Activation("sigmoid", expit, _sigmoid_body),
    Activation("hardsigmoid", _hardsigmoid, _hardsigmoid_body),
)

BY_NAME = {activation.name: activation for activation in ACTIVATIONS}
