"""Models with mixtures of experts, from torch and from ONNX: compiled, they compute the same."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import sparsecc
from sparsecc import ops
from sparsecc.capture import capture
from tests.end_to_end import mixtures

TOLERANCE = 1e-5


def worst(compiled: sparsecc.Compiled, model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """The largest error of an output, relative to its largest magnitude."""
    with torch.no_grad():
        wanted = model(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    made = compiled(*inputs)
    made = made if isinstance(made, tuple) else (made,)
    return max(
        float((m - w).abs().max() / w.abs().max()) for m, w in zip(made, wanted, strict=True)
    )


def mixtures_in(compiled: sparsecc.Compiled) -> int:
    """How many nodes of an artifact's model, its regions included, are mixtures."""
    model = onnx.load(compiled.path / "model.onnx", load_external_data=False)
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    return sum(node.domain == ops.DOMAIN and "MoE" in node.op_type for node in nodes)


@pytest.mark.parametrize("source", ["torch", "onnx"])
@pytest.mark.parametrize("name", mixtures.MODELS)
def test_models_compute_what_torch_does(name: str, source: str, tmp_path: Path) -> None:
    """Also where all tokens are alike, and go to the same experts."""
    _, inputs, count = mixtures.MODELS[name]
    model = mixtures.model(name)
    if source == "torch":
        compiled = sparsecc.compile(model, example_inputs=inputs(0))
    else:
        ir.save(capture(model, inputs(0)), tmp_path / "model.onnx")
        compiled = sparsecc.compile(tmp_path / "model.onnx")
    assert mixtures_in(compiled) == count
    for given in (inputs(1), inputs(2, alike=True)):
        assert worst(compiled, model, given) < TOLERANCE
