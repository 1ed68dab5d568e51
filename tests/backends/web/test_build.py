"""The files around a module: what is written of names, whatever they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsecc.backends.bundle.whole import Port
from sparsecc.backends.web.build import TWINS, write_demo, write_module
from tests import small

NODE = shutil.which("node")
DTYPES = ("float32", "int32", "int64", "uint8", "int8", "bool")
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
ports = st.builds(
    Port,
    name=names,
    dtype=st.sampled_from(DTYPES),
    dims=st.lists(st.integers(0, 1 << 40) | names, max_size=4).map(tuple),
)
few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def written(folder: Path, inputs: list[Port], outputs: list[Port]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    (folder / TWINS[0]).write_bytes(b"module")
    write_module(folder, "My_model", inputs, outputs)
    return folder


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@few
@given(inputs=st.lists(ports, min_size=1, max_size=3), outputs=st.lists(ports, max_size=3))
def test_any_name_comes_back(tmp_path: Path, inputs: list[Port], outputs: list[Port]) -> None:
    """What Node reads of about.js is what was written: a name ends no string and no comment."""
    folder = written(tmp_path / "module", inputs, outputs)
    show = "import { ABOUT } from './about.js'; process.stdout.write(JSON.stringify(ABOUT));"
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", show],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    about = json.loads(done.stdout)
    plain = {
        side: [{"name": port.name, "type": port.dtype, "dims": list(port.dims)} for port in given]
        for side, given in (("inputs", inputs), ("outputs", outputs))
    }
    assert {side: about[side] for side in plain} == plain
    assert about["weights"]["bytes"] == len(b"weights")
    assert list(about["files"]) == ["weights.bin", "model.wasm"]
    assert all(url == (folder / name).as_uri() for name, url in about["files"].items())
    types = (folder / "index.d.ts").read_text(encoding="utf-8")
    assert types.count("/*") == types.count("*/")


def test_the_same_twice_is_the_same(tmp_path: Path) -> None:
    port = Port("x", "float32", (1, 3, 8, 8))
    folders = [written(tmp_path / name, [port], [port]) for name in ("a", "b")]
    for folder in folders:
        write_demo(folder, "My_model", [port], ir.from_proto(small.mobilenet()))
    first, second = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in folders
    )
    assert first == second


def test_package(tmp_path: Path) -> None:
    package = json.loads((written(tmp_path / "m", [], []) / "package.json").read_text())
    assert package["name"] == "my_model"
    assert package["type"] == "module"
    assert package["exports"]["."] == {"types": "./index.d.ts", "default": "./index.js"}


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ([Port("x", "float32", (1, 3, 224, 224))], "picture"),
        ([Port("x", "float32", ("n", 1, "h", "w"))], "picture"),
        ([Port("x", "uint8", (1, 3, 224, 224))], "numbers"),
        ([Port("x", "float32", (1, 80, 3000))], "numbers"),
        ([Port("input_ids", "int64", ("b", "t")), Port("mask", "int64", ("b", "t"))], "text"),
        ([Port("ids", "int64", (1, 8)), Port("x", "float32", (1, 8))], "numbers"),
    ],
)
def test_what_the_demo_asks_for(tmp_path: Path, inputs: list[Port], kind: str) -> None:
    folder = written(tmp_path / "m", inputs, inputs)
    write_demo(folder, "m", inputs, ir.from_proto(small.mobilenet()))
    settings_file = json.loads((folder / "demo" / "settings.json").read_text())
    assert (settings_file["kind"], settings_file["title"]) == (kind, "m")
