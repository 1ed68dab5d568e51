"""Bad input: one clear error that names the culprit and the way out, and nothing written."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import sparsecc
from sparsecc.errors import (
    ArtifactError,
    BackendError,
    CalibrationError,
    ModelError,
    PlanError,
    SparseccError,
    TargetError,
)
from tests import small

Content = dict[str, bytes | None]
Refused = Callable[..., SparseccError]


def tree(folder: Path) -> Content:
    """Everything below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new() -> Iterator[None]:
    """Collecting looks at nothing that other tests left: that took a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, beside a temporary folder of its own for the whole process."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "work"


@pytest.fixture
def refused(work: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Compiling and saving to ``out`` must fail, clearly and without a trace."""

    def check(
        kind: type[SparseccError], model: Any, *said: str, out: str = "out", **options: Any
    ) -> SparseccError:
        before = tree(work)
        with pytest.raises(SparseccError) as caught:
            sparsecc.compile(model, **options).save(work / out)
        assert type(caught.value) is kind
        text = str(caught.value)
        assert all(part in text for part in said), text
        assert caught.value.fix
        assert len(caught.value.message.splitlines()) == 1
        assert capfd.readouterr() == ("", "")
        assert tree(work) == before
        error = caught.value
        error.__traceback__ = error.__cause__ = error.__context__ = None
        del caught
        gc.collect()
        assert tree(work.parent / "tmp") == {}
        return error

    return check


def mlp_at(folder: Path, edit: Callable[[onnx.ModelProto], object] = lambda _: None) -> Path:
    """The MLP as a file, after an edit."""
    proto = small.mlp()
    edit(proto)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


class TestModels:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0",
            b"not a model",
            b"\x89PNG\r\n",
            b"\x80\x05K\x01.",
            b"<html></html>",
            b"{}" * 99,
        ],
    )
    def test_not_a_model(self, refused: Refused, work: Path, content: bytes) -> None:
        (work / "bad.onnx").write_bytes(content)
        refused(ModelError, work / "bad.onnx", "bad.onnx", "not an ONNX model")

    @given(cut=st.floats(0, 1, exclude_max=True))
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_truncated_anywhere(self, refused: Refused, work: Path, cut: float) -> None:
        content = small.mlp().SerializeToString()
        (work / "cut.onnx").write_bytes(content[: int(cut * len(content))])
        refused(ModelError, work / "cut.onnx", "cut.onnx")

    def test_absent_or_a_folder(self, refused: Refused, work: Path) -> None:
        refused(ModelError, work / "none.onnx", "none.onnx", "cannot be read")
        refused(ModelError, work, str(work))

    @pytest.mark.parametrize("model", [None, 3, b"bytes", {"a": 1}, np.zeros(3), object()])
    def test_an_object_that_is_no_model(self, refused: Refused, model: object) -> None:
        refused(ModelError, model, type(model).__qualname__, "is not a model")

    @pytest.mark.parametrize("opset", [10, 99])
    def test_opset(self, refused: Refused, work: Path, opset: int) -> None:
        def edit(proto: onnx.ModelProto) -> None:
            proto.opset_import[0].version = opset

        refused(ModelError, mlp_at(work, edit), f"opset {opset}", "11–24", "convert_version")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("sparsity", ["existing", "4x1:0.8"])
    def test_weights_that_are_not_finite(
        self, refused: Refused, work: Path, value: float, sparsity: str
    ) -> None:
        def edit(proto: onnx.ModelProto) -> None:
            tensor = proto.graph.initializer[2]
            weight = numpy_helper.to_array(tensor).copy()
            weight[3, 5] = value
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))

        error = refused(ModelError, mlp_at(work, edit), "'fc2.weight'", sparsity=sparsity)
        assert error.node == "fc2"

    def test_a_graph_that_contradicts_itself(self, refused: Refused, work: Path) -> None:
        def twice(proto: onnx.ModelProto) -> None:
            proto.graph.node[1].output[0] = "a"

        refused(ModelError, mlp_at(work, twice), "malformed")

    def test_an_operator_that_does_not_exist(self, refused: Refused, work: Path) -> None:
        def unknown(proto: onnx.ModelProto) -> None:
            proto.graph.node[1].op_type = "Frobnicate"

        refused(BackendError, mlp_at(work, unknown), "Frobnicate")

    def test_inputs_that_cannot_be_made_up(self, refused: Refused) -> None:
        nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], "cut")]
        weights = {"shape": np.array([-1, 7], np.int64)}
        proto = small.model(nodes, {"x": ["n", 64]}, {"y": ["m", 7]}, weights)
        refused(ModelError, proto, "x [1, 64]", "cut", "calibration")


class TestExternalData:
    @pytest.fixture
    def model(self, work: Path) -> Path:
        folder = work / "model"
        folder.mkdir()
        onnx.save(
            small.mlp(),
            folder / "m.onnx",
            save_as_external_data=True,
            location="w.data",
            size_threshold=0,
        )
        return folder / "m.onnx"

    def relocate(self, model: Path, location: str) -> None:
        proto = onnx.load(model, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        model.write_bytes(proto.SerializeToString())

    def test_missing(self, refused: Refused, model: Path) -> None:
        (model.parent / "w.data").unlink()
        refused(ModelError, model, "'fc1.weight'", "w.data", "cannot be read")

    def test_truncated(self, refused: Refused, model: Path) -> None:
        os.truncate(model.parent / "w.data", 1000)
        refused(ModelError, model, "'fc1.weight'", "w.data", "1000 bytes")

    @pytest.mark.parametrize("location", ["../w.data", "sub/../../w.data", "{}/w.data"])
    def test_outside_by_name(self, refused: Refused, model: Path, location: str) -> None:
        shutil.copy(model.parent / "w.data", model.parent.parent / "w.data")
        self.relocate(model, location.format(model.parent.parent))
        refused(ModelError, model, "'fc1.weight'", "outside the model's folder")

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_outside_by_link(
        self, refused: Refused, model: Path, link: Callable[..., None]
    ) -> None:
        (model.parent / "w.data").rename(model.parent.parent / "secret")
        link(model.parent.parent / "secret", model.parent / "w.data")
        refused(ModelError, model, "'fc1.weight'", "outside the model's folder")

    def test_a_message_without_its_folder(self, refused: Refused, model: Path) -> None:
        proto = onnx.load(model, load_external_data=False)
        refused(ModelError, proto, "does not know the folder", "pass the path")


X = small.tokens(0)


class TestCalibration:
    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"wrong": X}, "lacks the input 'x'"),
            ({"x": X, "extra": X}, "'extra'"),
            ({"x": X[:, :-1]}, "[32, 255]"),
            ({"x": X[..., None]}, "[32, 256, 1]"),
            ({"x": X[0]}, "[256]"),
            ({"x": X.astype(np.float64)}, "float64"),
            ({"x": X.astype(np.int32)}, "int32"),
            ({"x": np.array([["a"] * 256])}, "dtype"),
            ({"x": X[:0]}, "is empty"),
            ({"x": X[:5]}, "batches of 32"),
            ({"x": np.where(X > 2, np.nan, X).astype(np.float32)}, "NaN or infinity"),
            ({"x": np.where(X > 2, np.inf, X).astype(np.float32)}, "NaN or infinity"),
            ({}, "lacks the input 'x'"),
            ([], "is empty"),
            ([{"x": X}, {"x": X[:3]}], "[3, 256]"),
            ([X], "not a mapping"),
        ],
    )
    def test_data_that_does_not_fit(self, refused: Refused, arrays: Any, said: str) -> None:
        refused(CalibrationError, small.mlp(), said, sparsity="4x1:0.8", calibration=arrays)

    def test_the_same_from_a_file(self, refused: Refused, work: Path) -> None:
        np.savez(work / "data.npz", x=X[:, :-1])
        path = work / "data.npz"
        refused(CalibrationError, small.mlp(), "[32, 255]", sparsity="0.5", calibration=path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an npz", b"\x93NUMPY\x01\x00"])
    def test_a_file_that_is_no_npz(self, refused: Refused, work: Path, content: bytes) -> None:
        (work / "data.npz").write_bytes(content)
        path = work / "data.npz"
        refused(CalibrationError, small.mlp(), "data.npz", sparsity="0.5", calibration=path)

    def test_absent(self, refused: Refused, work: Path) -> None:
        path = work / "none.npz"
        refused(CalibrationError, small.mlp(), "none.npz", sparsity="0.5", calibration=str(path))

    def test_one_bare_array(self, refused: Refused, work: Path) -> None:
        path = work / "data.npz"
        with path.open("wb") as file:
            np.save(file, X)
        refused(CalibrationError, small.mlp(), "bare array", sparsity="0.5", calibration=path)

    def test_pickled_objects_are_never_loaded(self, refused: Refused, work: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(work / "exploded"),)

        np.savez(work / "data.npz", x=np.array([Bomb()], object))
        path = work / "data.npz"
        refused(CalibrationError, small.mlp(), "data.npz", sparsity="0.5", calibration=path)
        assert not (work / "exploded").exists()

    @given(data=st.data())
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_damaged_file(self, work: Path, data: st.DataObject) -> None:
        """Any change of any byte is read as it was, or is one error of ours."""
        from sparsecc.quality.samples.numpy_files import read_npz

        path = work / "data.npz"
        np.savez_compressed(path, x=X[:2])
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        try:
            read_npz(path)
        except CalibrationError as error:
            assert "data.npz" in str(error)  # noqa: PT017 - may fail, need not


IMPOSSIBLE = """
4x 4x1 4x1: 4x1:1 4x1:1.5 4x1:-0.5 5x1:0.5 4x2:0.5 3:2 0:4 80 lots dense:0.5 2:4:0.5
existing:0.5 nan 1e9 4x1:0,8
"""


class TestRequests:
    @pytest.mark.parametrize("sparsity", ["", *IMPOSSIBLE.split()])
    def test_impossible_sparsity(self, refused: Refused, sparsity: str) -> None:
        culprit = sparsity.partition(":")[0]
        refused(PlanError, small.mlp(), culprit, sparsity=sparsity)
        refused(PlanError, small.mlp(), culprit, overrides={"fc1": sparsity})

    @given(text=st.text(max_size=20))
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_garbage_is_found_before_the_model_is_read(self, work: Path, text: str) -> None:
        with pytest.raises((PlanError, ModelError)):
            sparsecc.compile(work / "none.onnx", sparsity=text)

    def test_an_override_that_matches_nothing(self, refused: Refused) -> None:
        refused(PlanError, small.mlp(), "'fc9'", "fc1", overrides={"fc9": "dense"})

    @pytest.mark.parametrize("target", ["", "z80", "x86", "X86-64", "cuda"])
    def test_unknown_target(self, refused: Refused, target: str) -> None:
        refused(TargetError, small.mlp(), repr(target), "x86-64-v4", target=target)

    def test_unknown_score_and_allocation(self, refused: Refused) -> None:
        refused(PlanError, small.mlp(), "'luck'", "wanda", score="luck")
        refused(PlanError, small.mlp(), "'fair'", "uniform", allocation="fair")


class TestOutput:
    def test_a_file_in_the_way(self, refused: Refused, work: Path) -> None:
        (work / "out").write_text("mine")
        refused(ArtifactError, small.mlp(), "out")
        refused(ArtifactError, small.mlp(), "out", out="out/deeper/still")

    def test_a_folder_of_somebody_else(self, refused: Refused, work: Path) -> None:
        (work / "out").mkdir()
        (work / "out" / "thesis.tex").write_text("years of work")
        refused(ArtifactError, small.mlp(), "out", "will not be overwritten")

    def test_a_folder_that_may_not_be_written(self, refused: Refused) -> None:
        refused(ArtifactError, small.mlp(), "/proc", out="/proc/out")  # not even by root

    @pytest.mark.parametrize("out", ["out", "new/deep/out"])
    def test_a_disk_that_fills_up(
        self, refused: Refused, work: Path, monkeypatch: pytest.MonkeyPatch, out: str
    ) -> None:
        real = shutil.copyfile

        def full(source: Path, target: Path) -> None:
            real(source, target)
            if target.suffix == ".onnx":
                os.truncate(target, 10)
                raise OSError(28, os.strerror(28), str(target))

        monkeypatch.setattr("sparsecc.artifact.shutil.copyfile", full)
        refused(ArtifactError, small.mlp(), "No space left on device", out=out)

    def test_a_temporary_folder_without_room(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(model: object, path: Path, **_: object) -> None:
            path.write_bytes(b"half")
            raise OSError(28, os.strerror(28), str(path))

        monkeypatch.setattr("sparsecc.backends.onnxruntime.save.ir.save", full)
        refused(ArtifactError, small.mlp(), "No space left on device", "TMPDIR")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled = sparsecc.compile(small.mlp(), sparsity="4x1:0.8")
    return compiled.save(tmp_path_factory.mktemp("bad") / "artifact")


class TestArtifacts:
    @pytest.fixture
    def copy(self, artifact: Path, work: Path) -> Path:
        return shutil.copytree(artifact, work / "copy")

    def not_loaded(self, folder: Path, *said: str) -> None:
        before = tree(folder.parent)
        with pytest.raises(ArtifactError) as caught:
            sparsecc.load(folder)
        assert all(part in str(caught.value) for part in (str(folder), *said)), caught.value
        assert caught.value.fix
        assert tree(folder.parent) == before

    @pytest.mark.parametrize("name", ["model.onnx", "run.py", "*.so"])
    def test_any_file_altered_truncated_missing_or_linked(self, copy: Path, name: str) -> None:
        path = next(copy.glob(name))
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for other in (flipped, content[:-1], b"", content + b"\0"):
            path.write_bytes(other)
            self.not_loaded(copy, path.name, "altered")
        path.unlink()
        self.not_loaded(copy, path.name, "missing")
        (copy.parent / "real").write_bytes(content)
        path.symlink_to(copy.parent / "real")
        self.not_loaded(copy, path.name, "missing")

    @pytest.mark.parametrize(
        "edit",
        [
            lambda data: data["files"].update({"../x": data["files"]["run.py"]}),
            lambda data: data["files"].update({"/etc/passwd": data["files"]["run.py"]}),
            lambda data: data.update(library="../libevil.so"),
            lambda data: data.update(format=1),
            lambda data: data.update(format=None),
            lambda data: data.update(files=3),
            lambda data: data.pop("plan"),
        ],
    )
    def test_a_manifest_that_lies(self, copy: Path, edit: Callable[[Any], object]) -> None:
        data = json.loads((copy / "manifest.json").read_bytes())
        edit(data)
        (copy / "manifest.json").write_text(json.dumps(data))
        self.not_loaded(copy, "manifest.json")

    @pytest.mark.parametrize("content", [b"", b"{", b"null", b"[" * 100_000, b"\xff\xff"])
    def test_a_manifest_that_is_none(self, copy: Path, content: bytes) -> None:
        (copy / "manifest.json").write_bytes(content)
        self.not_loaded(copy, "manifest.json")

    def test_a_manifest_too_large(self, copy: Path) -> None:
        os.truncate(copy / "manifest.json", 65 << 20)
        with pytest.raises(ArtifactError, match="too large"):
            sparsecc.load(copy)

    def test_an_unknown_target_in_it(self, copy: Path) -> None:
        data = json.loads((copy / "manifest.json").read_bytes())
        (copy / "manifest.json").write_text(json.dumps(data | {"target": "z80"}))
        with pytest.raises(TargetError, match="'z80'"):
            sparsecc.load(copy)

    def test_a_library_of_another_processor_under_our_name(self, copy: Path) -> None:
        """Rightly hashed, but made for another machine: told when it is loaded, not a crash."""
        path = next(copy.glob("*.so"))
        content = bytearray(path.read_bytes())
        content[18:20] = (0x28, 0) if content[18] != 0x28 else (0x3E, 0)  # e_machine: 32-bit ARM
        path.write_bytes(content)
        data = json.loads((copy / "manifest.json").read_bytes())
        from sparsecc.manifest import file_entry

        data["files"][path.name] = file_entry(path).model_dump()
        (copy / "manifest.json").write_text(json.dumps(data))
        with pytest.raises(BackendError, match=path.name) as caught:
            sparsecc.load(copy)(X)
        assert "target='native'" in str(caught.value)
