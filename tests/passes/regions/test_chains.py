"""Which convolutions become a chain, and that the chain computes what they did."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsecc import ops
from sparsecc.backends.kernels.table import CHAIN_STAGES, STEPS
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.passes import edit
from tests.passes.regions import test_form as forms
from tests.passes.regions.test_form import HEAD, TARGET, regions_of, sparse, text_model

BLOCK = """
    e = Conv<kernel_shape = [1, 1]>(x, up)
    f = Relu(e)
    d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 32>(f, deep)
    g = Relu(d)
    p = Conv<kernel_shape = [1, 1]>(g, down)
    s = Add(p, x)
"""


@pytest.fixture(scope="module")
def library() -> Path:
    return build_library(TARGET)


def scattered(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * (rng.random(shape) < 0.2)).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "up": sparse(rng, 32, 16, 1, 1),
        "down": sparse(rng, 16, 32, 1, 1),
        "deep": rng.standard_normal((32, 1, 3, 3)).astype(np.float32),
        "last": sparse(rng, 16, 16, 1, 1),
        "wide": sparse(rng, 16, 16, 3, 3),
        "code": scattered(rng, 256, 16, 1, 1),
        "window": scattered(rng, 256, 16, 3, 3),
    }


def network(
    body: str, sides: str = "14, 14", outputs: str = "float[N, 16, R, S] y"
) -> onnx.ModelProto:
    """A model over images of sixteen channels; a number behind a weight makes it another."""
    known = weights()
    named = {name: known.get(name.rstrip("0123456789")) for name in re.findall(r", (\w+)\)", body)}
    used = {name: array for name, array in named.items() if array is not None}
    text = f"{HEAD} g (float[N, 16, {sides}] x) => ({outputs}) {{ {body} }}"
    return text_model(text, used)


def steps_of(proto: onnx.ModelProto) -> list[str]:
    """Kinds of the steps of all regions, in order."""
    graph, _ = regions_of(proto)
    kinds: list[str] = []
    for call in (node for node in graph.graph if ops.is_region(node)):
        program = edit.constant(call.inputs[0])
        assert program is not None
        count, at = int(program[5]), 6 + int(program[4])
        for _ in range(count):
            kind, *operands = program[at : at + 5].tolist()
            kinds.append(STEPS[kind])
            at += 5 + sum(operands)
    return kinds


def check(proto: onnx.ModelProto, library: Path, sides: tuple[int, int] = (14, 14)) -> ir.Model:
    for batch in (1, 3):
        rng = np.random.default_rng(batch)
        x = rng.standard_normal((batch, 16, *sides)).astype(np.float32)
        graph = forms.check(proto, {"x": x}, library)
    return graph


def test_a_block_with_a_residual_is_one_chain(library: Path) -> None:
    proto = network(BLOCK + "y = Conv<kernel_shape = [1, 1]>(s, last)")
    assert steps_of(proto) == ["chain"]
    check(proto, library)


def test_a_value_that_others_read_ends_a_chain(library: Path) -> None:
    proto = network(BLOCK + "t = Sigmoid(s) u = Conv<kernel_shape = [1, 1]>(s, last) y = Mul(t, u)")
    assert steps_of(proto).count("chain") == 1
    check(proto, library)


def test_an_output_of_the_model_ends_a_chain(library: Path) -> None:
    body = BLOCK + "y = Conv<kernel_shape = [1, 1]>(s, last)"
    proto = network(body, outputs="float[N, 16, R, S] y, float[N, 16, R, S] s")
    assert steps_of(proto) == ["chain", "conv"]
    check(proto, library)


@pytest.mark.parametrize("stride", [1, 2])
def test_sizes_may_be_open(stride: int, library: Path) -> None:
    """Those that no depthwise kernel reads where they lie too: odd ones, and 17 columns."""
    block = BLOCK
    if stride == 2:
        block = block.replace("pads", "strides = [2, 2], pads").replace("Add(p, x)", "Relu(p)")
    proto = network(block + "y = Conv<kernel_shape = [1, 1]>(s, last)", sides="H, W")
    assert steps_of(proto) == ["chain"]
    for sides in ((11, 13), (16, 16), (9, 17), (20, 34), (1, 1)):
        check(proto, library, sides)


def test_a_stride_over_odd_sides_has_a_step_of_its_own(library: Path) -> None:
    strided = BLOCK.replace("pads", "strides = [2, 2], pads").replace("Add(p, x)", "Relu(p)")
    body = strided + "y = Conv<kernel_shape = [1, 1]>(s, last)"
    assert steps_of(network(body, "15, 15")) == ["conv", "conv", "chain"]
    assert steps_of(network(body, "16, 16")) == ["chain"]
    check(network(body, "15, 15"), library, (15, 15))
    check(network(body, "16, 16"), library, (16, 16))


def test_a_layer_with_generated_code_is_in_a_chain(library: Path) -> None:
    body = BLOCK + "y = Conv<kernel_shape = [1, 1]>(s, code)"
    proto = network(body, outputs="float[N, 256, R, S] y")
    assert steps_of(proto) == ["chain"]
    check(proto, library)


def test_a_window_with_generated_code_has_a_step_of_its_own(library: Path) -> None:
    body = BLOCK + "y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(s, window)"
    proto = network(body, outputs="float[N, 256, R, S] y")
    assert steps_of(proto) == ["chain", "conv"]
    check(proto, library)


def test_windows_of_any_size_are_in_a_chain(library: Path) -> None:
    body = """
        a = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x, wide1)
        b = Relu(a)
        c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(b, wide2)
        y = Add(c, b)
    """
    proto = network(body)
    assert steps_of(proto) == ["chain"]
    check(proto, library)


def test_a_long_network_is_several_chains(library: Path) -> None:
    count = CHAIN_STAGES + 2
    names = ["x", *(f"v{at}" for at in range(count))]
    layers = [
        f"{made} = Conv<kernel_shape = [1, 1]>({read}, last{made[1:]})"
        for read, made in itertools.pairwise(names)
    ]
    body = "\n".join([*layers, f"y = Relu({names[-1]})"])
    assert steps_of(network(body)) == ["chain", "chain"]
