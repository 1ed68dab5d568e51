"""An artifact as one file: whole, the same each time, and telling what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import sparsecc
from sparsecc.errors import ArtifactError
from sparsecc.manifest import read_manifest
from sparsecc.package import ABOUT, package
from sparsecc.search.plan import Plan
from sparsecc.verify import verify
from tests import small


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = sparsecc.compile(small.mlp("n"), sparsity="4x1:0.8", backend="bundle", name="tiny")
    return made.save(tmp_path_factory.mktemp("bundle") / "out")


def unpacked(path: Path, folder: Path) -> Path:
    subprocess.run(["unzip", "-q", str(path), "-d", str(folder)], check=True)
    return folder


def test_the_same_folder_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(bundle, other)
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    one, two = package(bundle, tmp_path / "a.zip"), package(other, tmp_path / "b.zip")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.skipif(not shutil.which("unzip"), reason="unzip is not installed")
def test_what_is_unpacked_is_the_artifact_and_can_be_checked(bundle: Path, tmp_path: Path) -> None:
    folder = unpacked(package(bundle, tmp_path / "a.zip"), tmp_path / "out")
    assert verify(folder)["ok"]
    subprocess.run(["sha256sum", "--quiet", "-c", f"{ABOUT}SHA256SUMS"], cwd=folder, check=True)
    assert os.access(folder / "tiny", os.X_OK)
    assert not os.access(folder / "weights.bin", os.X_OK)


def test_it_tells_plan_numerics_and_licences(saved_mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("all mine")
    path = package(saved_mlp, tmp_path / "a.zip", tmp_path / "mine.txt")
    manifest = read_manifest(saved_mlp)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {"manifest.json", *manifest.files} < set(names)
        plan = Plan.from_json(archive.read(f"{ABOUT}plan.json"))
        assert [layer.name for layer in plan.layers] == [row["name"] for row in manifest.layers]
        told = json.loads(archive.read(f"{ABOUT}numerics.json"))
        assert (told["numerics"], told["target"]) == (manifest.numerics, manifest.target)
        assert "Apache License" in archive.read(f"{ABOUT}LICENSE").decode()
        assert archive.read(f"{ABOUT}LICENSE.model") == b"all mine"


def test_what_is_wrong_leaves_no_file(saved_mlp: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved_mlp, tmp_path / "copy")
    (copy / "run.py").write_text("altered")
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    out = tmp_path / "a.zip"
    for arguments, said in (
        ((copy, out), "altered"),
        ((tmp_path, out), "not a sparsecc artifact"),
        ((saved_mlp, tmp_path / "a.tar"), r"no \.zip"),
        ((saved_mlp, tmp_path / "nowhere" / "a.zip"), "cannot write"),
        ((saved_mlp, out, tmp_path / "none"), "cannot be read"),
        ((saved_mlp, out, tmp_path / "large"), "larger than a licence"),
        ((saved_mlp, out, tmp_path / "binary"), "cannot be read"),
    ):
        with pytest.raises(ArtifactError, match=said) as caught:
            package(*arguments)
        assert caught.value.fix
    assert not list(tmp_path.glob("*.zip"))
