"""Transformers from torch, in every way to write one, are one region in any batch and length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.inspection import rewrite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.form import FormRegions
from tests.end_to_end import transformers as zoo
from tests.passes.regions import test_form
from tests.passes.regions.test_form import TARGET, outputs

library = test_form.library
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, to whoever exports

OPEN = torch.export.Dim.AUTO
VISION: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: zoo.Vision([zoo.PackedBlock() for _ in range(zoo.DEPTH)]),
    "timm": lambda: zoo.Vision([zoo.StackedBlock(fused=True, scale=False)]),
    "timm, written out": lambda: zoo.Vision([zoo.StackedBlock(fused=False, scale=True)]),
    "timm, mean of tokens": lambda: zoo.Vision([zoo.StackedBlock(True, False)], first=0),
    "timm, positions first": lambda: zoo.Vision([zoo.StackedBlock(True, False)], late=False),
    "timm, two class tokens": lambda: zoo.Vision([zoo.StackedBlock(True, False)], first=2),
    "transformers": lambda: zoo.Vision([zoo.SplitBlock(fused=True) for _ in range(zoo.DEPTH)]),
    "transformers, written out": lambda: zoo.Vision([zoo.SplitBlock(fused=False)]),
}
ENCODERS = [
    {"batch_first": True, "norm_first": False, "activation": "gelu"},
    {"batch_first": True, "norm_first": True, "activation": "relu"},
    {"batch_first": False, "norm_first": False, "activation": "relu"},
]


def exported(module: nn.Module, args: tuple[torch.Tensor, ...], form: str, folder: Path) -> Path:
    """An ONNX file by torch's exporter of today or by that of before, its two first sizes open."""
    path, axes = folder / "model.onnx", (0,) if args[0].dim() == 4 else (0, 1)
    names = ["x", "other", "mask"][: len(args)]
    if form == "old":
        open_axes = {"x": {axis: f"size{axis}" for axis in axes}}
        kept = {"dynamo": False, "opset_version": 17, "dynamic_axes": open_axes}
        torch.onnx.export(module, args, path, input_names=names, **kept)
    else:
        shapes = tuple(dict.fromkeys(axes, OPEN) for _ in args)
        kept = {"dynamo": True, "opset_version": 20, "dynamic_shapes": shapes, "verbose": False}
        torch.onnx.export(module, args, path, input_names=names, external_data=False, **kept)
    return path


def regions_of(path: Path) -> ir.Model:
    graph, ctx = capture(path), Context(target=TARGET, verify=True)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    rewrite(graph, TARGET, ctx)
    ops.attach_functions(graph)
    run([FormRegions(TARGET)], graph, Context(target=TARGET))
    return graph


def check(path: Path, feeds: list[dict[str, np.ndarray]], library: Path) -> ir.Model:
    """The model with its regions, which computes what the file does on all of these inputs."""
    graph = regions_of(path)
    content = ir.to_proto(graph).SerializeToString()
    for each in feeds:
        (want,) = outputs(path.read_bytes(), each)
        for place in (None, library):
            (got,) = outputs(content, each, place)
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    return graph


def kinds(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("form", ["old", "new"])
@pytest.mark.parametrize("name", VISION)
def test_a_vision_transformer_is_one_region(
    library: Path, tmp_path: Path, name: str, form: str
) -> None:
    module = zoo.sparse(VISION[name]())
    path = exported(module, (torch.randn(2, 3, zoo.SIDE, zoo.SIDE),), form, tmp_path)
    feeds = [{"x": floats(batch, 3, zoo.SIDE, zoo.SIDE)} for batch in (1, 2, 3)]
    assert kinds(check(path, feeds, library)) == ["Region0"]


@pytest.mark.parametrize("settings", ENCODERS)
def test_an_encoder_of_torch_is_one_region(
    library: Path, tmp_path: Path, settings: dict[str, bool | str]
) -> None:
    module = zoo.sparse(zoo.Encoder(**settings))
    path = exported(module, (torch.randn(2, 20, zoo.WIDTH),), "new", tmp_path)
    feeds = [{"x": floats(*sizes, zoo.WIDTH)} for sizes in ((1, 7), (2, 20), (3, 70))]
    assert kinds(check(path, feeds, library)) == ["Region0"]


@pytest.mark.parametrize("batch", [1, 2])
def test_the_old_exporter_writes_a_batch_down(library: Path, tmp_path: Path, batch: int) -> None:
    """torch's attention cannot be exported by it with an open batch."""
    module = zoo.sparse(zoo.Encoder(**ENCODERS[0]))
    path = tmp_path / "model.onnx"
    example = (torch.randn(batch, 20, zoo.WIDTH),)
    torch.onnx.export(module, example, path, dynamo=False, opset_version=17, input_names=["x"])
    graph = check(path, [{"x": floats(batch, 20, zoo.WIDTH)}], library)
    assert kinds(graph) == ["Region0"]


def test_attention_to_another_sequence(library: Path, tmp_path: Path) -> None:
    size = torch.export.Dim("batch", min=1, max=9)
    args = (torch.randn(2, 9, zoo.WIDTH), torch.randn(2, 13, zoo.WIDTH), torch.randn(2, 1, 9, 13))
    path = tmp_path / "model.onnx"
    shapes = tuple({0: size} for _ in args)
    names = ["x", "other", "mask"]
    torch.onnx.export(
        *(zoo.sparse(zoo.Cross()), args, path),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=shapes,
        input_names=names,
        external_data=False,
        verbose=False,
    )
    feeds = [
        {
            "x": floats(batch, 9, zoo.WIDTH),
            "other": floats(batch, 13, zoo.WIDTH),
            "mask": floats(batch, 1, 9, 13),
        }
        for batch in (1, 3)
    ]
    assert kinds(check(path, feeds, library)) == ["Region0"]
