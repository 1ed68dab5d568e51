from __future__ import annotations

import pytest

from benchmarks import build, spec


def test_a_layer_reads_the_one_above_or_those_it_names() -> None:
    text = "input x 1x3x8x8  # a picture\nconv a 8 k=3\n\nconv b 8 from=x act=relu\nadd c from=a,b"
    layers = {layer.name: layer for layer in spec.parse(text)}
    assert layers["a"].inputs == ("x",)
    assert layers["b"].options == {"act": "relu"}
    assert layers["c"].inputs == ("a", "b")
    assert (layers["a"].number("k", 1), layers["b"].number("k", 1)) == (3, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv", "line 1"),
        ("input x 1x3x8x8\n\nconv x 8", "line 3: 'x' is defined twice"),
        ("input x 1x3x8x8\nconv a 8 from=b", "unknown {'b'}"),
    ],
)
def test_malformed_lines_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.parse(text)


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet50"):
        spec.load("resnet5000")


@pytest.mark.parametrize("name", spec.names())
def test_every_model_file_uses_known_layers(name: str) -> None:
    assert {layer.op for layer in spec.load(name)} <= build.OPS.keys()


def test_shrink_keeps_the_graph_and_the_classifier() -> None:
    layers = spec.load("mobilenet_v1")
    small = spec.shrink(layers, 0.25, 32)
    assert [layer.name for layer in small] == [layer.name for layer in layers]
    by_name = {layer.name: layer.argument for layer in small}
    assert (by_name["image"], by_name["stem"], by_name["head"]) == ("1x3x32x32", "8", "1000")
    assert by_name["block13.pointwise"] == "256"


def test_shrink_shortens_text() -> None:
    small = spec.shrink(spec.load("bert_base"), 0.125, 16)
    assert small[0].argument == "1x16"
