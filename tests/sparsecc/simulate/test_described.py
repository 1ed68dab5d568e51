from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sparsecc.errors import SimulationError
from sparsecc.simulate import read_cluster, read_model
from sparsecc.simulate.model import MODEL_FILE, flops_per_token, parameters
from tests.sparsecc.simulate.described import CLUSTER, MODEL, cluster, model


def put(path: Path, content) -> Path:
    text = content if isinstance(content, str) else json.dumps({"format": 1} | content)
    path.write_text(text)
    return path


def test_json_and_yaml_say_the_same(tmp_path):
    plain = put(tmp_path / "model.json", MODEL)
    other = put(tmp_path / "model.yaml", yaml.safe_dump({"format": 1} | MODEL))
    assert read_model(plain) == read_model(other) == model()
    assert read_cluster(put(tmp_path / "cluster.json", CLUSTER)) == cluster()


def test_a_model_that_is_written_is_read_again(tmp_path):
    MODEL_FILE.save(model(), tmp_path / "m.json")
    assert read_model(tmp_path / "m.json") == model()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"layers": 0}, "field 'layers': Input should be greater than or equal to 1"),
        ({"layers": 10**9}, "field 'layers': Input should be less than or equal to 4096"),
        ({"layers": "8"}, "field 'layers': Input should be a valid integer"),
        ({"depth": 8}, "field 'depth': Extra inputs are not permitted"),
        ({"top_k": 17}, "top_k is 17, and there are 16 experts"),
        ({"dense_layers": 9}, "dense_layers is 9, of 8 layers"),
        ({"load": [1.0]}, "load has 1 numbers for 16 experts"),
        ({"dtype": "int3"}, "field 'dtype': Input should be 'bfloat16', 'float16' or 'float32'"),
        (
            {"attention": {"heads": 8, "key_dim": 4, "value_dim": 4, "kv_heads": 3}},
            "8 heads do not share 3 of keys evenly",
        ),
        (
            {"attention": {"heads": 8, "key_dim": 4, "value_dim": 4, "latent_rank": 3}},
            "query_rank and latent_rank go together",
        ),
        ({"format": 2}, "has model description format 2, this sparsecc reads 1"),
    ],
)
def test_a_wrong_model_says_what_is_wrong(tmp_path, fields, what):
    path = put(tmp_path / "model.json", MODEL | fields)
    with pytest.raises(SimulationError, match=r"model\.json") as caught:
        read_model(path)
    assert what in str(caught.value)
    assert "docs/simulate.md" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"nodes": 0}, "field 'nodes'"),
        ({"inside": {"bandwidth": float("nan"), "latency": 0}}, "'inside.bandwidth'"),
        ({"inside": {"bandwidth": 0, "latency": 0}}, "'inside.bandwidth'"),
        ({"inside": {"bandwidth": 1, "latency": -1}}, "'inside.latency'"),
        ({"overlap": {"expert": 1.5}}, "'overlap.expert'"),
        ({"overlap": {"other": 0.5}}, "'overlap.other"),
        ({"together": [[2, 3]]}, "devices are worth no more than their number"),
        ({"together": [[4, 2], [2, 2]]}, "sizes have to rise from point to point"),
        ({"device": CLUSTER["device"] | {"peak": {}}}, "'device.peak'"),
        (
            {"device": CLUSTER["device"] | {"streamed": [[10, 0.5], [1, 0.5]]}},
            "sizes have to rise from point to point",
        ),
    ],
)
def test_a_wrong_cluster_says_what_is_wrong(tmp_path, fields, what):
    with pytest.raises(SimulationError) as caught:
        read_cluster(put(tmp_path / "cluster.json", CLUSTER | fields))
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("m.json", "{", "m.json is not JSON"),
        ("m.json", "[1]", "has model description format None"),
        ("m.yaml", "a: [", "m.yaml is not YAML"),
        ("m.yaml", "a: &a [1]\nb: *a", "m.yaml has aliases"),
        ("m.yaml", "- 1", "has model description format None"),
        ("m.yaml", "a: 2020-01-01", "m.yaml is not plain data"),
        ("m.yaml", "!!python/object/apply:os.system [ls]", "m.yaml is not YAML"),
        ("m.yaml", "#" * (1 << 20) + "\n", "is larger than 1024 KiB"),
        ("m.json", " " * (1 << 20) + "{}", "is larger than 1024 KiB"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, name, text, what):
    with pytest.raises(SimulationError) as caught:
        read_model(put(tmp_path / name, text))
    assert what in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "none.yaml"])
def test_a_file_that_is_missing_is_named(tmp_path, name):
    with pytest.raises(SimulationError, match=name):
        read_model(tmp_path / name)


def test_parameters_of_a_small_model_by_hand():
    one = model(layers=2, dense_layers=1, gated=False, shared=0)
    attention = 256 * 3 * 256 + 256 * 256
    dense = attention + 2 * 256 * 1024
    routed = 2 * 256 * 512
    rest = dense + attention + 256 * 16 + 2 * 256 * 1000
    assert parameters(one) == (rest + 16 * routed, rest + 2 * routed)
    scores = 2 * 8 * (32 + 32) * 128
    assert flops_per_token(one) == 6 * (rest - 256 * 1000 + 2 * routed + scores)
