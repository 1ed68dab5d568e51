"""Layers timed alone: each on what it reads in the model."""

import numpy as np
import onnx_ir as ir
import pytest

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.bench import measure
from sparsecc.bench.layers import time_layers
from sparsecc.manifest import MODEL_NAME
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.inline import InlineRegions
from sparsecc.quality.segments import reads, schedule, segment_of_fixed_sizes
from tests import small

SHORT = 0.1


def test_every_layer_of_an_artifact_is_timed(pruned_mlp):
    names = [layer["name"] for layer in pruned_mlp.manifest.layers]
    model, library = pruned_mlp.path / MODEL_NAME, pruned_mlp.path / pruned_mlp.manifest.library
    times = time_layers(model, library, [*names, "no such"], {"x": small.tokens(0)}, seconds=SHORT)
    assert list(times) == names
    for each in times.values():
        assert 0 <= each.ms < 100
        assert 0 < each.dense_ms < 100


def test_without_a_library_there_is_one_time(pruned_mlp):
    model = pruned_mlp.path / MODEL_NAME
    times = time_layers(model, None, ["fc1"], {"x": small.tokens(0)}, seconds=SHORT)
    assert times["fc1"].ms == times["fc1"].dense_ms > 0
    assert time_layers(model, None, ["no such"], {"x": small.tokens(0)}) == {}


def test_more_work_takes_longer():
    wide = sparsecc.compile(small.mlp("n"), sparsity="4x1:0.8")
    library = wide.path / wide.manifest.library
    few, many = (
        time_layers(
            wide.path / MODEL_NAME, library, ["fc1"], {"x": small.tokens(0, rows)}, seconds=0.3
        )["fc1"]
        for rows in (64, 4096)
    )
    assert many.ms > 5 * few.ms
    assert many.dense_ms > 5 * few.dense_ms


def test_a_layer_alone_computes_what_it_does_in_the_model(pruned_mlp, tmp_path):
    """The model of one node, fed with what the layers before it gave, ends in the same numbers."""
    graph = ir.load(pruned_mlp.path / MODEL_NAME)
    run([InlineRegions()], graph, Context())
    nodes = [node for node in graph.graph if node.name in ("fc1", "fc2", "head")]
    plan = schedule(graph, [(node.outputs[0], node) for node in nodes])
    values = {"x": small.tokens(3)}
    for node in nodes:
        inputs = {v.name: values[v.name] for v in reads(node) if v in plan.born}
        name = node.outputs[0].name
        source = segment_of_fixed_sizes(plan, [node], inputs, [name], tmp_path)
        library = pruned_mlp.path / pruned_mlp.manifest.library
        alone = open_session(source, library=library).run([name], inputs)[0]
        values[name] = alone
    wanted = pruned_mlp(x=values["x"])
    assert np.allclose(alone, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_images_in_chains_are_taken_apart():
    compiled = sparsecc.compile(small.mobilenet("4x1:0.8"))
    seen = []
    measured = measure(compiled.path, seconds=SHORT, progress=lambda step, done: seen.append(done))
    names = {layer["name"] for layer in compiled.manifest.layers}
    assert measured.layers.keys() == names
    assert measured.whole.threads == 1
    assert measured.machine
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    data = measured.to_json()
    assert data["layers"]["stem"].keys() == {"ms", "dense_ms"}
