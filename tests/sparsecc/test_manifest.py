"""The manifest: what it refuses to believe."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsecc import manifest as manifests
from sparsecc.artifact import open_artifact
from sparsecc.errors import ArtifactError
from sparsecc.manifest import Manifest, read_manifest

FILES = {"model.onnx": b"a model of some bytes", "lib.so": b"\x7fELF code", "run.py": b"import"}
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    made = Manifest(
        format=manifests.FORMAT,
        sparsecc="0.1.0",
        tools=manifests.tool_versions(),
        target="x86-64",
        library="lib.so",
        opset=17,
        files={name: manifests.file_entry(tmp_path / name) for name in FILES},
        plan={},
        layers=[],
        refusals=[],
        numerics={"max_rel_error": 1e-6},
        quality={},
    )
    (tmp_path / "manifest.json").write_bytes(made.to_bytes())
    return tmp_path


def edited(folder: Path, edit: Edit) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_bytes())
    edit(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, said: str) -> None:
    with pytest.raises(ArtifactError, match=said) as caught:
        open_artifact(folder)
    assert str(folder) in str(caught.value)


def test_what_was_written_is_read(folder: Path) -> None:
    made = open_artifact(folder)
    assert made == read_manifest(folder)
    assert made.to_bytes() == (folder / "manifest.json").read_bytes()
    assert set(made.tools) == {"numpy", "onnx", "onnx-ir", "onnxruntime", "ziglang"}


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_seen(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    at = data.draw(st.integers(0, len(FILES[name]) - 1))
    content = bytearray(FILES[name])
    content[at] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    refused(folder, f"{name} was altered")
    (folder / name).write_bytes(FILES[name])
    open_artifact(folder)


@pytest.mark.parametrize("name", FILES)
def test_any_file_truncated_grown_missing_linked_or_a_folder(folder: Path, name: str) -> None:
    path = folder / name
    for content in (FILES[name][:-1], FILES[name] + b"!", b""):
        path.write_bytes(content)
        refused(folder, f"{name} was altered")
    path.unlink()
    refused(folder, f"{name} is missing")
    outside = folder.parent / f"{folder.name}-{name}"
    outside.write_bytes(FILES[name])
    path.symlink_to(outside)
    refused(folder, f"{name} is missing")
    path.unlink()
    path.mkdir()
    refused(folder, f"{name} is missing")


def test_a_manifest_that_is_a_link(folder: Path) -> None:
    path = folder / "manifest.json"
    path.rename(folder / "real.json")
    path.symlink_to("real.json")
    refused(folder, "has no manifest.json")


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/passwd", "sub/x", "..", ".", "", "a/", "./model.onnx", "x\0y", "\ud800"),
        *("sub/../model.onnx", "sub//x", "/sub/x", "sub/./x", "sub\\x", "C:/x"),
    ],
)
def test_names_that_leave_the_folder_or_are_none(folder: Path, name: str) -> None:
    entry = manifests.file_entry(folder / "run.py").model_dump()
    edited(folder, lambda data: data["files"].update({name: entry}))
    refused(folder, r"outside its folder|is missing|not a valid manifest")


def test_files_in_folders_below(folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    path = folder / "sub" / "deep" / "x"
    path.write_bytes(b"x")
    entry = manifests.file_entry(path).model_dump()
    edited(folder, lambda data: data["files"].update({"sub/deep/x": entry}))
    assert "sub/deep/x" in open_artifact(folder).files
    path.write_bytes(b"y")
    refused(folder, "was altered")


def test_a_folder_below_that_is_a_link(folder: Path) -> None:
    elsewhere = folder.parent / f"{folder.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x").write_bytes(b"x")
    (folder / "sub").symlink_to(elsewhere)
    entry = manifests.file_entry(elsewhere / "x").model_dump()
    edited(folder, lambda data: data["files"].update({"sub/x": entry}))
    refused(folder, "outside its folder")


def test_without_onnx_runtime_no_model_is_needed(folder: Path) -> None:
    def edit(data: dict) -> None:
        data["hardware"] = {"backend": "bundle"}
        del data["files"]["model.onnx"]

    edited(folder, edit)
    assert not open_artifact(folder).has_model
    edited(folder, lambda data: data["hardware"].update(backend="onnxruntime"))
    refused(folder, "does not list 'model.onnx'")


@pytest.mark.parametrize("name", ["../lib.so", "/lib.so", "other.so"])
def test_a_library_of_elsewhere(folder: Path, name: str) -> None:
    (folder / "other.so").write_bytes(b"not listed")
    edited(folder, lambda data: data.update(library=name))
    refused(folder, r"outside its folder|does not list")


def test_a_model_that_is_not_listed(folder: Path) -> None:
    edited(folder, lambda data: data["files"].pop("model.onnx"))
    refused(folder, "does not list 'model.onnx'")


@pytest.mark.parametrize("version", [0, 3, 5, "4", None, [4], 4.5])
def test_a_format_of_another_version(folder: Path, version: object) -> None:
    edited(folder, lambda data: data.update(format=version))
    with pytest.raises(ArtifactError, match="has format") as caught:
        open_artifact(folder)
    assert "compile the model again" in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("files"),
        lambda data: data.pop("target"),
        lambda data: data.update(surprise=1),
        lambda data: data.update(files=[]),
        lambda data: data["files"]["run.py"].update(sha256="0" * 63),
        lambda data: data["files"]["run.py"].update(sha256="Z" * 64),
        lambda data: data["files"]["run.py"].update(bytes=-1),
        lambda data: data["files"]["run.py"].update(bytes="many"),
        lambda data: data.update(numerics={"max_rel_error": "small"}),
        lambda data: data.update(layers={}),
    ],
)
def test_fields_that_are_wrong(folder: Path, edit: Edit) -> None:
    edited(folder, edit)
    refused(folder, "is not a valid manifest")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a valid manifest"),
        (b"{", "not a valid manifest"),
        (b"\xff\xfe\x00", "not a valid manifest"),
        (b"[" * 200_000, "not a valid manifest"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not a valid manifest"),
        (b"[1]", "has format None"),
        (b"null", "has format None"),
    ],
)
def test_what_is_no_manifest_at_all(folder: Path, content: bytes, said: str) -> None:
    (folder / "manifest.json").write_bytes(content)
    refused(folder, said)


@given(
    content=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        open_artifact(folder)


def test_a_manifest_too_large_is_not_even_read(folder: Path) -> None:
    os.truncate(folder / "manifest.json", manifests.MAX_MANIFEST_BYTES + 1)
    refused(folder, "too large")
