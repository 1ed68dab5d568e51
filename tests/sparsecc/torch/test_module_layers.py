from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsecc.capture import capture
from sparsecc.errors import ModelError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights import layers as graph_layers
from sparsecc.torch.module_layers import find_layers, from_matrix, match_layers, to_matrix


class Mixed(nn.Module):
    """Every kind of layer, and names that begin or end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.bn = nn.BatchNorm2d(16)
        self.conv_2 = nn.Conv2d(16, 32, 3, groups=2)
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.block = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 48))
        self.block1 = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48))
        self.twice = nn.Linear(48, 48)
        self.encoder = nn.TransformerEncoderLayer(48, 4, 64, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.conv_2(torch.relu(self.bn(self.conv(x)))))
        x = self.block1(self.block(x.flatten(2).transpose(1, 2)))
        x = self.encoder(self.twice(torch.relu(self.twice(x))))
        result: Tensor = self.head(x.mean(1))
        return result


def captured(module: nn.Module) -> dict[str, graph_layers.Layer]:
    graph = capture(module, (torch.randn(2, 3, 16, 16),))
    run(pipeline.EXACT_BEFORE, graph, Context())
    return {layer.name: layer for layer in graph_layers.find_layers(graph).layers}


def test_every_captured_layer_is_the_modules_and_its_matrix_is_the_same() -> None:
    torch.manual_seed(0)
    module = Mixed().eval()
    module.bn.weight.data.uniform_(0.5, 2)
    found = captured(module)
    matched = match_layers(module, {n: (each.rows, each.cols) for n, each in found.items()})
    assert {layer.name for layer in matched.values()} == {
        layer.name for layer in find_layers(module)
    }
    assert matched["twice_2"].module is module.twice
    assert matched["conv_2"].module is module.conv_2
    assert matched["encoder.self_attn"].parameter == "in_proj_weight"
    for name, layer in matched.items():
        theirs, ours = graph_layers.matrix(found[name]), to_matrix(layer.weight)
        if name == "conv":  # its BatchNorm was folded into it: every row is scaled
            theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
            ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_reasons_to_stay_dense_are_those_of_the_graph() -> None:
    module = Mixed().eval()
    ours = {layer.name: layer.keep_dense for layer in find_layers(module)}
    assert ours == {
        name: layer.keep_dense.removesuffix(": feeds a graph output")
        for name, layer in captured(module).items()
        if name != "twice_2"
    }


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_matrix_round_trip(rows: int, inputs: int, height: int, width: int, conv: bool) -> None:
    shape = (rows, inputs, height, width) if conv else (rows, inputs)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(rows + inputs))
    matrix = to_matrix(weight)
    assert matrix.shape == (rows, weight[0].numel())
    assert torch.equal(from_matrix(matrix, weight), weight)
    if conv:  # the order is kernel row, kernel column, input channel
        assert matrix[0, inputs - 1] == weight[0, -1, 0, 0]


def test_a_path_before_all_names_is_found_on_either_side() -> None:
    net = nn.Sequential(OrderedDict(a=nn.Linear(16, 16), b=nn.Linear(16, 16)))
    shapes = {"a": (16, 16), "b": (16, 16)}
    wrapped = nn.Sequential(OrderedDict(module=net))
    assert match_layers(wrapped, shapes)["b"].module is net.b
    longer = {f"model.net.{name}": shape for name, shape in shapes.items()}
    assert match_layers(net, longer)["model.net.b"].module is net.b


def test_where_two_paths_would_do_none_is_chosen() -> None:
    twins = nn.ModuleDict(
        {name: nn.Sequential(OrderedDict(a=nn.Linear(16, 16))) for name in ("left", "right")}
    )
    with pytest.raises(ModelError, match="'a'"):
        match_layers(twins, {"a": (16, 16)})


def test_a_layer_that_is_missing_or_differs_is_named() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
    for name, shape, message in [
        ("0", (32, 17), r"'0' is \[32, 16\], not \[32, 17\]"),
        ("1", (32, 16), "no linear or convolution '1'"),
        ("7", (32, 16), "no linear or convolution '7'"),
    ]:
        with pytest.raises(ModelError, match=message):
            match_layers(net, {name: shape})


def test_weights_that_modules_share_are_left_out() -> None:
    tied = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    tied[1].weight = tied[0].weight
    assert [layer.name for layer in find_layers(tied)] == ["2"]
