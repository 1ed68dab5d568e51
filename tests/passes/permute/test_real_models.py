"""Permuted at random, real models answer as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.permute.couplings import Couplings, find_couplings
from sparsecc.passes.permute.rearrange import rearrange
from tests.end_to_end import zoo
from tests.passes.permute.graphs import cycles, sizes

TOLERANCE = 3e-5  # float32: sums of some thousand numbers in another order

SETS = {
    "mobilenet_v1": 14,
    "mobilenet_v2": 25,
    "efficientnet_lite0": 24,
    "resnet18": 12,
    "resnet50": 37,
    "vit": 97,
    "ocr_recognizer": 58,
    "ocr_detector": 36,
    "ocr_direction": 26,
    "minilm": 156,
    "recurrent": 0,
    "control_flow": 0,
    "opset_11": 3,
    "quantised": 0,
}
"""Model → how many sets of channels may change places."""


def shuffled(model: ir.Model, feeds: zoo.Feeds) -> Couplings:
    """Permute every set of a captured model; its answers stay."""
    run(pipeline.EXACT_BEFORE, model, Context())
    wanted = answers(model, feeds)
    found = find_couplings(model)
    assert bool(rearrange(found, cycles(found, 1))) == bool(found.sets)
    for one, other in zip(answers(model, feeds), wanted, strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * scale)
    return found


def answers(model: ir.Model, feeds: zoo.Feeds) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return list(
        ort.InferenceSession(ir.to_proto(model).SerializeToString(), options).run(None, feeds)
    )


@pytest.mark.parametrize("name", SETS)
def test_a_real_model_answers_as_before(name: str, tmp_path: Path) -> None:
    if package := zoo.missing_package(name):
        pytest.skip(f"{package} is not installed")
    case = zoo.ZOO[name](tmp_path)
    found = shuffled(captured(case.model, tuple(case.feeds.values())), case.feeds)
    assert len(found.sets) == SETS[name]


def captured(model: Any, arrays: tuple[Any, ...]) -> ir.Model:
    if isinstance(model, Path):
        return capture(model)
    import torch

    return capture(model, tuple(map(torch.from_numpy, arrays)))


def test_hidden_layers_of_minilm_are_free(tmp_path: Path) -> None:
    if package := zoo.missing_package("minilm"):
        pytest.skip(f"{package} is not installed")
    case = zoo.ZOO["minilm"](tmp_path)
    found = shuffled(captured(case.model, tuple(case.feeds.values())), case.feeds)
    assert sizes(found) == sorted([(32, 1)] * 144 + [(1536, 1)] * 6 + [(12, 65)] * 6)


def _encoder() -> tuple[Any, tuple[int, ...]]:
    from tests.end_to_end import transformers

    return transformers.Encoder(batch_first=True, norm_first=True, activation="gelu"), (2, 9, 64)


def _vision(block: str, *arguments: bool) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    def make() -> tuple[Any, tuple[int, ...]]:
        from tests.end_to_end import transformers

        blocks = [getattr(transformers, block)(*arguments) for _ in range(2)]
        return transformers.Vision(blocks), (1, 3, 48, 48)

    return make


TORCH: dict[str, tuple[Callable[[], tuple[Any, tuple[int, ...]]], int]] = {
    "torch's encoder": (_encoder, 0),  # batch and heads in one open dimension: not followed
    "as torchvision": (_vision("PackedBlock"), 0),
    "as timm": (_vision("StackedBlock", False, True), 2),
    "as transformers": (_vision("SplitBlock", False), 2),
}
"""How a transformer is written → who makes it, and how many of its layers have heads that move."""


@pytest.mark.parametrize("name", TORCH)
def test_transformers_as_they_are_written(name: str) -> None:
    torch = pytest.importorskip("torch")
    make, layers = TORCH[name]
    torch.manual_seed(0)
    module, shape = make()
    x = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    model = capture(module.eval(), (torch.from_numpy(x),))
    (read,) = (value.name for value in model.graph.inputs)
    found = sizes(shuffled(model, {str(read): x}))
    assert any(each[0] == 128 for each in found)  # a hidden layer
    assert found.count((4, 33)) == layers  # heads
    assert found.count((16, 1)) == layers * 8  # features of queries and keys, and of values
