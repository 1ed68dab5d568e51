from __future__ import annotations

import importlib
import re
import runpy
import sys

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks import build, peers
from benchmarks.peers import environment
from benchmarks.peers.environment import interpreter, python_of
from tests.benchmarks.shrunk import shrunk

TABLE = peers.load()


@pytest.mark.parametrize("peer", TABLE.values(), ids=TABLE.keys())
def test_every_peer_is_pinned_and_has_an_adapter(peer):
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", package) for package in peer.packages)
    assert peer.version == peer.packages[0].split("==")[1]
    text = peer.runtime.read_text()
    assert "\ndef open_side(job, feeds):" in text
    assert ("__main__" in text) == peer.converts
    assert "sparsecc" not in text  # the environment has no such package


@pytest.mark.parametrize("pattern", ["dense", "4x1:0.8", "16x1:0.9", "unstructured:0.7"])
@pytest.mark.parametrize("peer", TABLE.values(), ids=TABLE.keys())
def test_every_peer_has_a_setting_for_every_pattern(peer, pattern):
    assert any(setting.suits(pattern) for setting in peer.settings)


def test_a_setting_is_tried_on_its_zeros_only():
    suited = [s.name for s in TABLE["mnn"].settings if s.suits("unstructured:0.9")]
    assert suited == ["dense", "sparse"]


def test_what_is_licensed_for_evaluation_only_is_optional():
    assert [peer.name for peer in TABLE.values() if peer.optional] == ["deepsparse"]


def test_this_python_serves_a_peer_that_takes_any():
    assert interpreter("") == sys.executable
    assert interpreter("99.0") == sys.executable


def test_a_peer_without_a_python_says_so():
    with pytest.raises(peers.UnavailableError, match=r"needs Python 3\.6 or older"):
        interpreter("3.6")


def test_an_environment_that_is_there_is_used(tmp_path):
    peer = TABLE["mnn"]
    folder = tmp_path / f"mnn-{peer.version}"
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    (folder / environment.STAMP).write_text("\n".join(peer.packages))
    assert python_of(peer, pytest.fail, tmp_path) == python


def test_a_package_that_cannot_be_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PIP", (*environment.PIP, "--no-index"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    peer = peers.Peer("none", "None", ("no-such-package==1.0",), ())
    with pytest.raises(
        peers.UnavailableError, match=r"cannot be installed: .*no-such-package"
    ) as why:
        python_of(peer, lambda stage: None, tmp_path)
    assert "\n" not in str(why.value)
    assert not (tmp_path / "none-1.0" / environment.STAMP).exists()


def pipeline_class():
    """`MNN.Compression.Pipeline`, as far as zeros need it."""
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p", syntax="proto2")
    whole, text, one = (
        getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind}")
        for kind in ("INT32", "STRING", "MESSAGE")
    )
    fields = {
        "Blocks": [("oc_blocks", 4, whole, None)],
        "Params": [("type", 1, whole, None), ("simd_oc", 3, one, ".p.Blocks")],
        "Algo": [("type", 1, whole, None), ("params", 3, one, ".p.Params")],
        "Pipeline": [("version", 1, text, None), ("algo", 2, one, ".p.Algo")],
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for member, number, kind, of in members:
            message.field.add(name=member, number=number, type=kind, type_name=of, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Pipeline"))


@pytest.mark.parametrize("block", [1, 4, 16])
def test_mnn_is_told_of_blocks_in_its_own_format(block):
    written = runpy.run_path(str(TABLE["mnn"].runtime))["pipeline"](block)
    read = pipeline_class().FromString(written)
    assert (read.version, read.algo.type, read.algo.params.type) == ("0.0.0", 1, 1)
    assert read.algo.params.simd_oc.oc_blocks == block
    assert read.SerializeToString() == written


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "minilm_l6", "mobilenet_v2", "mobilenet_v3_large", "vit_tiny"]
)
def test_torch_computes_the_same_graph(name):
    torch = pytest.importorskip("torch")
    translated = importlib.import_module("benchmarks.peers.runtimes.torch").Translated
    layers = shrunk(name)
    model, feeds = build.build(layers, "4x1:0.8"), build.inputs(layers)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    tensors = {key: torch.from_numpy(value) for key, value in feeds.items()}
    with torch.inference_mode():
        actual = translated(model.graph).eval()(tensors).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
