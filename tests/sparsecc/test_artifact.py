"""Writing an artifact folder: wholly or not at all, and never over somebody else's work."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from sparsecc import manifest as manifests
from sparsecc.artifact import check_destination, copy_artifact, open_artifact, written_aside
from sparsecc.errors import ArtifactError
from sparsecc.manifest import Manifest

MODEL = b"a model"


def fill(folder: Path, model: bytes = MODEL) -> None:
    """A valid artifact of one file."""
    (folder / "model.onnx").write_bytes(model)
    made = Manifest(
        format=manifests.FORMAT,
        sparsecc="0",
        tools={},
        target="x86-64",
        library=None,
        opset=17,
        files={"model.onnx": manifests.file_entry(folder / "model.onnx")},
        plan={},
        layers=[],
        refusals=[],
        numerics={},
        quality={},
    )
    (folder / "manifest.json").write_bytes(made.to_bytes())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    fill(folder)
    return folder


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_missing_parents_appear_with_it(tmp_path: Path) -> None:
    with written_aside(tmp_path / "a" / "b" / "out") as fresh:
        fill(fresh)
        assert not (tmp_path / "a").exists()
    files = {"a/b/out/model.onnx", "a/b/out/manifest.json"}
    assert set(tree(tmp_path)) == {"a", "a/b", "a/b/out"} | files
    open_artifact(tmp_path / "a" / "b" / "out")


def test_an_empty_folder_is_filled_and_an_artifact_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for model in (MODEL, b"another"):
        with written_aside(tmp_path / "out") as fresh:
            fill(fresh, model)
        assert (tmp_path / "out" / "model.onnx").read_bytes() == model
    assert set(tree(tmp_path)) == {"out", "out/model.onnx", "out/manifest.json"}


@pytest.mark.parametrize("place", ["artifact", "new", "new/deep"])
@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt()])
def test_a_failure_in_the_block_leaves_no_trace(artifact: Path, place: str, failure) -> None:
    before = tree(artifact.parent)

    def broken() -> None:
        with written_aside(artifact.parent / place) as fresh:
            (fresh / "model.onnx").write_bytes(b"half")
            raise failure

    with pytest.raises(type(failure)):
        broken()
    assert tree(artifact.parent) == before


@pytest.mark.parametrize("place", ["copy", "deep/er/copy", "old"])
def test_a_full_disk_leaves_no_trace(artifact: Path, place: str, monkeypatch) -> None:
    shutil.copytree(artifact, artifact.parent / "old")
    before = tree(artifact.parent)
    done: list[object] = []

    def second_fails(source: Path, target: Path) -> None:
        if done:
            target.write_bytes(b"ha")
            no_room()
        done.append(target.write_bytes(source.read_bytes()))

    monkeypatch.setattr("sparsecc.artifact.shutil.copyfile", second_fails)
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        copy_artifact(artifact, artifact.parent / place)
    assert place in str(caught.value)
    assert "room" in str(caught.value)
    assert tree(artifact.parent) == before
    assert len(done) == 1


def test_the_old_artifact_is_back_if_the_last_rename_fails(artifact: Path, monkeypatch) -> None:
    before, rename = tree(artifact.parent), Path.rename

    def new_fails(self: Path, target: Path) -> Path:
        return no_room() if self.parent.name == "new" else rename(self, target)  # type: ignore[return-value]

    monkeypatch.setattr(Path, "rename", new_fails)
    with pytest.raises(ArtifactError, match="No space left"), written_aside(artifact) as fresh:
        fill(fresh, b"another")
    assert tree(artifact.parent) == before


@pytest.mark.parametrize(
    "content",
    [
        {"thesis.tex": b"years of work"},
        {"manifest.json": b'{"name": "my browser extension"}', "background.js": b"1"},
        {"manifest.json": b"not json"},
        {".git": b"x"},
    ],
)
def test_work_of_others_is_left_alone(tmp_path: Path, content: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in content.items():
        (out / name).write_bytes(data)
    before = tree(tmp_path)
    for attempt in (check_destination, lambda place: written_aside(place).__enter__()):
        with pytest.raises(ArtifactError, match="will not be overwritten") as caught:
            attempt(out)
        assert "another output folder" in str(caught.value)
    assert tree(tmp_path) == before


def test_an_artifact_that_holds_more_is_left_alone(artifact: Path) -> None:
    (artifact / "inputs.npz").write_bytes(b"mine")
    before = tree(artifact.parent)
    with pytest.raises(ArtifactError, match=r"holds 'inputs.npz'"):
        check_destination(artifact)
    assert tree(artifact.parent) == before


@pytest.mark.parametrize("place", ["file", "file/out", "file/deep/out"])
def test_a_file_in_the_way(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="file") as caught:
        check_destination(tmp_path / place)
    assert "choose" in str(caught.value)
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("sparsecc.artifact.tempfile.TemporaryDirectory", refused)
    with pytest.raises(ArtifactError, match="Permission denied"):
        check_destination(tmp_path / "out")
    assert tree(tmp_path) == {}


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_destination(tmp_path / "a" / "b")
    assert tree(tmp_path) == {}


def test_a_link_to_a_folder_stays_a_link(artifact: Path) -> None:
    link = artifact.parent / "latest"
    link.symlink_to(artifact)
    with written_aside(link) as fresh:
        fill(fresh, b"another")
    assert link.is_symlink()
    assert (artifact / "model.onnx").read_bytes() == b"another"


def test_unreadable_files_are_told(artifact: Path, monkeypatch) -> None:
    def refused(*_: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied"):
        open_artifact(artifact)


def test_folders_below_are_copied_checked_and_replaced(artifact: Path, tmp_path: Path) -> None:
    (artifact / "demo" / "deep").mkdir(parents=True)
    (artifact / "demo" / "deep" / "x").write_bytes(b"x")
    made = manifests.read_manifest(artifact)
    files = manifests.files_of(artifact)
    del files["manifest.json"]
    listed = made.model_copy(update={"files": files})
    (artifact / "manifest.json").write_bytes(listed.to_bytes())
    out = tmp_path / "out"
    for _ in range(2):  # the second replaces the first
        copy_artifact(artifact, out)
        assert tree(out) == tree(artifact)
        assert open_artifact(out) == listed


@pytest.mark.parametrize("foreign", ["demo/mine", "demo/", "empty/"])
def test_what_lies_below_and_is_not_listed_is_somebodys_work(artifact: Path, foreign: str) -> None:
    path = artifact / foreign
    path.parent.mkdir(exist_ok=True)
    if foreign.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"mine")
    with pytest.raises(ArtifactError, match=foreign.rstrip("/")):
        check_destination(artifact)
