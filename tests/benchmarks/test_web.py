"""Races of WebAssembly engines: what they run is the model, and what is written of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from benchmarks import build, spec, web, web_start
from tests import small

ROOT = Path(__file__).parents[2]
IDENTITY = {"model": "mobilenet_v1", "pattern": "dense", "host": "node"}


@pytest.mark.skipif(
    not (shutil.which("node") and (ROOT / "node_modules").is_dir()),
    reason="node is not installed, or `npm ci` was not run",
)
@pytest.mark.parametrize("host", web.HOSTS)
def test_every_engine_computes_the_model(tmp_path: Path, host: str) -> None:
    if host == "chromium" and shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, 64)
    job = web.prepare("mobilenet_v1", "4x1:0.8", tmp_path, 0.05, layers)
    found = web.found_rows(web.race(job, host), IDENTITY)
    assert [row.engine for row in found] == list(web.ENGINES)
    for row in found:
        assert row.unavailable == ""
        assert row.error < 1e-5
        assert 0 < row.least_ms <= row.ms
        assert row.rounds >= 4
    assert found[0].ratio == 1
    assert found[1].simd == ("simd128" if host == "node" else "relaxed")


def test_what_comes_before_the_first_answer_is_beyond_the_read() -> None:
    starts = [{"readMs": 10.0, "loadMs": 20.0 + i, "firstMs": 30.0} for i in range(3)]
    threads = [{"threads": 1, "times": [8.0, 8.0]}, {"threads": 2, "times": [4.0, 5.0, 4.0]}]
    shown = web_start.line("m", "dense", "node", {"starts": starts, "threads": threads})
    assert shown == [
        *("m", "dense", "node", "10 ms", "21 ms", "30 ms", "41 ms"),
        *("8.00 ms", "4.00 ms", "2.00"),
    ]
    assert len(shown) == len(web_start.HEAD)


def test_what_is_no_chain_is_none() -> None:
    """A residual network, and a transformer."""
    for name, size in (("resnet18", 64), ("minilm_l6", 8)):
        layers = spec.shrink(spec.load(name), 0.25, size)
        assert web.chain(build.build(layers, "dense")) is None


def test_a_chain_has_every_weight() -> None:
    model = small.mobilenet()
    made = web.chain(model)
    assert made is not None
    steps, numbers = made
    kinds = [step["op"] for step in steps]
    assert kinds == ["conv"] + ["depthwise", "conv"] * 13 + ["linear"]
    weights = [each for each in model.graph.initializer if len(each.dims) in (1, 2, 4)]
    floats = [each for each in weights if each.data_type == onnx.TensorProto.FLOAT]
    assert numbers.size == sum(step["size"] + step["biasSize"] for step in steps)
    assert numbers.size == sum(onnx.numpy_helper.to_array(each).size for each in floats)


def race(**engines: dict[str, object]) -> dict[str, dict[str, object]]:
    plain = {"error": 0.0}
    return {name: plain | each for name, each in engines.items()}


def test_ratios_are_paired_by_round() -> None:
    """Both slow down together: the ratio does not."""
    found = race(
        **{
            web.BASELINE: {"rounds": [[4.0, 4.0], [8.0, 8.0], [6.0, 6.0]]},
            web.OURS: {"rounds": [[1.0, 1.0], [2.0, 2.0], [1.5, 1.5]], "simd": "relaxed"},
        }
    )
    baseline, ours = web.found_rows(found, IDENTITY)
    assert (ours.ratio, ours.ratio_low, ours.ratio_high) == (4, 4, 4)
    assert (ours.ms, ours.least_ms, baseline.ms) == (1.5, 1.0, 6.0)


def test_who_is_wrong_or_not_there_has_no_figures() -> None:
    found = race(
        **{
            web.BASELINE: {"rounds": [[4.0]]},
            web.OURS: {"rounds": [[1.0]], "error": 0.5},
            web.THIRD: {"unavailable": "no such\nkernel"},
        }
    )
    rows = web.found_rows(found, IDENTITY)
    assert [row.unavailable for row in rows] == [
        "",
        "wrong answer: off by 5.0e-01",
        "no such kernel",
    ]
    shown = web.section(rows, {"mobilenet_v1 dense": dict.fromkeys(SIZES, 1500)}, "here")
    assert "| mobilenet_v1 | dense | node | 4.00 | – | – | – | – |" in shown
    assert "- tfjs on mobilenet_v1 dense in node: no such kernel" in shown
    assert "| mobilenet_v1 | dense | 2 KB | 2 KB | 2 KB |" in shown


SIZES = ("model.wasm", "model.relaxed.wasm", "weights.bin")
