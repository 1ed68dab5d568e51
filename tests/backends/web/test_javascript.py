"""What is published, in the engines it is for: Node, Chromium, TypeScript and a bundler."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sparsecc.backends.bundle.build import SHARED_MEMORY_FLAGS
from sparsecc.backends.bundle.parts import WEB, Kernels
from sparsecc.backends.codegen.toolchain import Unit, build_cached, wasm_module
from sparsecc.backends.kernels.sources import read_sources
from sparsecc.backends.web.build import SCRIPTS

HERE = Path(__file__).parent
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")
IN_BROWSER = ("browser", "bundler", "demo")
LIMIT_S = 300

pytestmark = pytest.mark.skipif(
    not (NODE and (HERE.parents[2] / "node_modules").is_dir()),
    reason="node is not installed, or `npm ci` was not run",
)


@pytest.mark.parametrize("name", ["node", "types", *IN_BROWSER])
def test_published(name: str, published: Path) -> None:
    if name in IN_BROWSER and CHROMIUM is None:
        pytest.skip("chromium is not installed")
    run(name, published)


def test_threads(tmp_path: Path) -> None:
    """The pool alone, many jobs of all sizes on more threads than there are cores."""
    kernels = Kernels("wasm32-freestanding", (), shared=True)
    plain = wasm_module(
        "stress.wasm",
        read_sources(WEB) | {"stress.c": (HERE / "stress.c").read_text()},
        kernels.built((Unit("memory.c"), Unit("threads.c"), Unit("stress.c"))),
        ["stress"],
    )
    flags = (*plain.link_flags, *SHARED_MEMORY_FLAGS)
    build = dataclasses.replace(plain, link_flags=flags)
    shutil.copyfile(build_cached(build), tmp_path / build.name)
    for script in SCRIPTS:
        shutil.copyfile(WEB / "js" / script, tmp_path / script)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run("threads", tmp_path)


def run(name: str, folder: Path) -> None:
    """A file of tests over a folder."""
    done = subprocess.run(
        [str(NODE), "--test", "--test-reporter=spec", f"{name}.test.mjs"],
        cwd=HERE,
        env=os.environ | {"SPARSECC_WEB": str(folder), "CHROMIUM": CHROMIUM or ""},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ℹ pass 0\n" not in done.stdout
