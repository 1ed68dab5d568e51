"""verify(): right artifacts pass, wrong ones are caught even when every hash is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sparsecc
from sparsecc import manifest as manifests
from sparsecc.errors import ArtifactError
from sparsecc.verify import verify
from tests import small


def signed_again(folder: Path) -> None:
    """Makes the hashes right after an edit, as a careless (or hostile) hand would."""
    path = folder / "manifest.json"
    data = json.loads(path.read_bytes())
    for name in data["files"]:
        data["files"][name] = manifests.file_entry(folder / name).model_dump()
    path.write_text(json.dumps(data))


@pytest.fixture
def copy(saved_mlp: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_mlp, tmp_path / "copy")


def edit_tensor(folder: Path, name: str, change) -> None:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            change(array)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    signed_again(folder)


def test_a_right_artifact(saved_mlp: Path) -> None:
    told: list[float] = []
    result = verify(saved_mlp, lambda _, share: told.append(share))
    assert result["ok"]
    assert [check["name"] for check in result["checks"]] == ["masked-dense twin", "portable bodies"]
    assert 0 < result["max_rel_error"] < 1e-4
    assert told == sorted(told)
    assert told[-1] == 1
    assert verify(str(saved_mlp)) == result


def test_a_dense_artifact(tmp_path: Path) -> None:
    result = verify(sparsecc.compile(small.mlp()).save(tmp_path / "out"))
    assert result["ok"]
    assert result["max_rel_error"] == 0


def test_a_body_that_computes_something_else(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    relu = next(n for f in model.functions for n in f.node if n.op_type == "Relu")
    relu.op_type = "Abs"
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    signed_again(copy)
    result = verify(copy)
    assert not result["ok"]
    assert {check["name"]: check["ok"] for check in result["checks"]} == {
        "masked-dense twin": True,
        "portable bodies": False,
    }


def test_packed_weights_that_contradict_themselves(copy: Path) -> None:
    """The library checks what it is given when a session is made; nothing is read out of bounds."""
    edit_tensor(copy, "fc1.index", lambda index: index.__setitem__(-1, 2**30))
    with pytest.raises(ArtifactError, match="fc1"):
        verify(copy)
    with pytest.raises(sparsecc.BackendError, match="fc1"):
        sparsecc.load(copy)(small.tokens(0))


def test_positions_out_of_order(copy: Path) -> None:
    edit_tensor(copy, "fc1.index", lambda index: index.__setitem__(slice(None), index[::-1].copy()))
    with pytest.raises(sparsecc.SparseccError, match="fc1"):
        verify(copy)


def test_weights_that_are_not_finite_show(copy: Path) -> None:
    edit_tensor(copy, "fc1.values", lambda values: values.fill(np.nan))
    verify(copy)  # NaN everywhere is the same wrong answer in every way: no crash


def test_a_tampered_artifact(copy: Path) -> None:
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"model.onnx was altered"):
        verify(copy)


def test_a_model_that_is_none_although_its_hash_is_right(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"not a model")
    signed_again(copy)
    with pytest.raises(sparsecc.SparseccError, match=r"model\.onnx"):
        verify(copy)


def test_a_model_that_reaches_for_other_files(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "fc1.values")
    (copy.parent / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    signed_again(copy)
    with pytest.raises(sparsecc.SparseccError, match=r"secret|outside"):
        verify(copy)
    with pytest.raises(sparsecc.SparseccError):
        sparsecc.load(copy)(small.tokens(0))
