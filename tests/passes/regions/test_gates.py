"""Squeeze-and-excite in a region, however an exporter writes it, and what of it stays outside."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sparsecc.backends.kernels.table import CHAIN_BESIDE
from sparsecc.backends.onnxruntime.library import build_library
from tests.passes.regions import test_form as forms
from tests.passes.regions.test_chains import steps_of
from tests.passes.regions.test_form import HEAD, TARGET, regions_of, sparse, text_model

CHANNELS, SQUEEZED, SIDE = 48, 12, 14

MEANS = {
    "GlobalAveragePool": "m = GlobalAveragePool(d)",
    "ReduceMean": "m = ReduceMean<axes = [2, 3], keepdims = 1>(d)",
    "ReduceMean from behind": "m = ReduceMean<axes = [-1, -2]>(d)",
}
GATES = {
    "Sigmoid": "g = Sigmoid(f)",
    "HardSigmoid": "g = HardSigmoid<alpha = 0.16666667, beta = 0.5>(f)",
    "another slope": "g = HardSigmoid<alpha = 0.2, beta = 0.4>(f)",
    "Clip": "a = Add(f, three) b = Clip(a, zero, six) g = Div(b, six)",
}
PRODUCTS = {"image first": "s = Mul(d, g)", "factors first": "s = Mul(g, d)"}
CONVOLUTIONS = """
    q = Conv<kernel_shape = [1, 1]>(m, squeeze, small)
    r = Relu(q)
    f = Conv<kernel_shape = [1, 1]>(r, excite)
"""
ROWS = """
    q = Gemm<transB = 1>(m, squeeze2)
    r = Relu(q)
    f = Gemm<transB = 1>(r, excite2)
"""
BEFORE = """
    e = Conv<kernel_shape = [1, 1]>(x, up)
    h = HardSwish(e)
    d = Conv<kernel_shape = [5, 5], pads = [2, 2, 2, 2], strides = [2, 2], group = 48>(h, deep)
"""
AFTER = "y = Conv<kernel_shape = [1, 1]>(s, down)"


@pytest.fixture(scope="module")
def library() -> Path:
    return build_library(TARGET)


def block(*middle: str, after: str = AFTER, sides: str = f"{SIDE}, {SIDE}") -> onnx.ModelProto:
    """x → 1x1 → depthwise d → mean m → … f → gate g → product s → 1x1 → y."""
    rng = np.random.default_rng(0)
    weights = {
        "up": sparse(rng, CHANNELS, 16, 1, 1),
        "deep": rng.standard_normal((CHANNELS, 1, 5, 5)).astype(np.float32) / 5,
        "squeeze": sparse(rng, SQUEEZED, CHANNELS, 1, 1) / 4,
        "excite": sparse(rng, CHANNELS, SQUEEZED, 1, 1),
        "down": sparse(rng, 16, CHANNELS, 1, 1),
        "small": rng.standard_normal(SQUEEZED).astype(np.float32),
        "zero": np.float32(0),
        "three": np.float32(3),
        "six": np.float32(6),
        "image": np.array([0, CHANNELS, 1, 1]),
        "last": np.array([2, 3]),
    }
    weights |= {f"{name}2": weights[name][:, :, 0, 0] for name in ("squeeze", "excite")}
    weights |= {f"{name}3": weights[name] for name in ("up", "down")}
    body = "\n".join([BEFORE, *middle, after])
    used = {name: weights[name] for name in set(re.findall(r"\w+", body)) & set(weights)}
    text = f"{HEAD} g (float[N, 16, {sides}] x) => (float[N, 16, R, S] y) {{ {body} }}"
    return text_model(text, used)


def check(proto: onnx.ModelProto, library: Path) -> None:
    for batch in (1, 2, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 16, SIDE, SIDE))
        graph = forms.check(proto, {"x": x.astype(np.float32)}, library)
    assert [node.op_type for node in graph.graph] == ["Region0"]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("product", PRODUCTS)
def test_one_of_convolutions_is_five_steps(
    mean: str, gate: str, product: str, library: Path
) -> None:
    proto = block(MEANS[mean], CONVOLUTIONS, GATES[gate], PRODUCTS[product])
    assert steps_of(proto) == ["chain", "mean", "conv", "conv", "chain"]
    check(proto, library)


@pytest.mark.parametrize(
    "mean",
    ["p = GlobalAveragePool(d) m = Flatten(p)", "m = ReduceMean<axes = [2, 3], keepdims = 0>(d)"],
)
@pytest.mark.parametrize(
    "image", ["t = Reshape(f, image) g = Sigmoid(t)", "t = Sigmoid(f) g = Unsqueeze(t, last)"]
)
def test_one_of_linear_layers_is_inside_too(mean: str, image: str, library: Path) -> None:
    proto = block(mean, ROWS, image, PRODUCTS["image first"])
    kinds = steps_of(proto)
    assert (kinds[0], kinds[-1]) == ("chain", "chain")
    assert "flatten" in kinds
    assert "scale" not in kinds
    check(proto, library)


def test_a_product_that_others_read_too_is_a_step(library: Path) -> None:
    after = "t = Conv<kernel_shape = [1, 1]>(s, down) u = GlobalAveragePool(s) v = Relu(u)"
    after += "w = Conv<kernel_shape = [1, 1]>(v, down3) z = Sigmoid(w) y = Mul(t, z)"
    proto = block(
        MEANS["GlobalAveragePool"], CONVOLUTIONS, GATES["Sigmoid"], "s = Mul(d, g)", after=after
    )
    assert steps_of(proto).count("scale") == 2
    check(proto, library)


def test_sizes_may_be_open(library: Path) -> None:
    proto = block(
        MEANS["GlobalAveragePool"],
        CONVOLUTIONS,
        GATES["HardSigmoid"],
        "s = Mul(d, g)",
        sides="H, W",
    )
    assert "scale" not in steps_of(proto)
    check(proto, library)


@pytest.mark.parametrize(
    ("gate", "kind"),
    [("Sigmoid", ""), ("HardSigmoid", "<alpha = 0.16666667, beta = 0.5>")],
)
def test_a_value_times_its_own_gate_is_a_step(gate: str, kind: str, library: Path) -> None:
    """Behind pooling no layer takes it over."""
    after = "t = Conv<kernel_shape = [1, 1]>(s, down) u = MaxPool<kernel_shape = [1, 1]>(t)"
    after += f" v = {gate}{kind}(u) w = Mul(u, v) z = Conv<kernel_shape = [1, 1]>(w, up3) "
    proto = block(
        MEANS["ReduceMean"],
        CONVOLUTIONS,
        GATES["Sigmoid"],
        PRODUCTS["image first"],
        after=after + "y = Conv<kernel_shape = [1, 1]>(z, down3)",
    )
    assert steps_of(proto)[-3:] == ["pool", "activation", "chain"]
    check(proto, library)


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ("b = Relu(f) g = HardSigmoid(b)", "another slope than 1/6"),
        ("g = Softplus(f)", "no Softplus"),
        ("b = Sigmoid(f) g = Add(b, d)", "a product of other than an image and a factor"),
    ],
)
def test_what_stays_outside_says_why(gate: str, reason: str) -> None:
    _, ctx = regions_of(block(MEANS["GlobalAveragePool"], CONVOLUTIONS, gate, "s = Mul(d, g)"))
    assert any(reason in refusal.reason for refusal in ctx.refusals)


@pytest.mark.parametrize("value", [-2, 0, 3, 1001, 2**40])
def test_factors_that_are_not_there_are_refused_with_a_name(value: int, library: Path) -> None:
    """The last number of the program is the input that the chain is multiplied by."""
    graph, _ = regions_of(
        block(MEANS["ReduceMean"], CONVOLUTIONS, GATES["Sigmoid"], PRODUCTS["image first"])
    )
    proto = ir.to_proto(graph)
    (tensor,) = (each for each in proto.graph.initializer if each.name == "Region0.program")
    numbers = numpy_helper.to_array(tensor).copy()
    assert numbers[-1] == CHAIN_BESIDE
    numbers[-1] = value
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    x = np.zeros((1, 16, SIDE, SIDE), np.float32)
    with pytest.raises(Exception, match=r"Region0 'region0'.*factors are not one of its inputs"):
        forms.outputs(proto.SerializeToString(), {"x": x}, library)
