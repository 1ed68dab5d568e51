"""The Kotlin of an Android module, compiled and run by a Java machine over the C of a phone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparsecc import targets
from sparsecc.backends.bundle import parts
from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.mobile.arrange import HERE
from tests.backends.bundle import wholes

ROOT = Path(__file__).parents[3]
COMPILER = ROOT / "node_modules" / "kotlin-compiler" / "lib"
OF_COMPILER = (
    *("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect"),
    *("kotlinx-coroutines-core-jvm", "annotations-13.0", "kotlin-daemon-client"),
)
ANDROID = {
    "Context.kt": """package android.content
class Context { val assets: android.content.res.AssetManager = TODO() }
""",
    "AssetManager.kt": """package android.content.res
class AssetManager {
    fun openFd(fileName: String): AssetFileDescriptor = TODO()
    fun open(fileName: String): java.io.InputStream = TODO()
}
class AssetFileDescriptor : java.io.Closeable {
    val startOffset: Long = TODO()
    val length: Long = TODO()
    fun createInputStream(): java.io.FileInputStream = TODO()
    override fun close() = Unit
}
""",
}
"""What the module calls of Android, declared alone: it is not here to be run."""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The library of a small model for this machine with the functions for Java, and its Kotlin."""
    target = targets.TARGETS["x86-64"]
    if not targets.runs_here(target):
        pytest.skip(f"this machine does not run {target.name}")
    if shutil.which("java") is None or not COMPILER.is_dir():
        pytest.skip("java, or npm's kotlin-compiler, is not installed")
    folder = tmp_path_factory.mktemp("kotlin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ANDROID", target.triple)
        build_bundle(wholes.MLP[0], target, "tiny", folder)
    for name in ("Model", "Native", "Assets"):
        text = (HERE / "android" / f"{name}.kt").read_text()
        (folder / f"{name}.kt").write_text(text.replace("NAME", "tiny"))
    for name, text in ANDROID.items():
        (folder / name).write_text(text)
    x = np.random.default_rng(2).standard_normal((7, 33)).astype(np.float32)
    x.tofile(folder / "x.raw")
    wholes.run_mlp(wholes.MLP[1], x).astype(np.float32).tofile(folder / "want.raw")
    return folder


def test_an_app_loads_runs_and_is_told_what_is_wrong(folder: Path) -> None:
    library = COMPILER / "kotlin-stdlib.jar"
    path = ":".join(str(COMPILER / f"{name}.jar") for name in OF_COMPILER)
    main = ["java", "-Xmx1g", "-cp", path, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    flags = ["-no-reflect", "-no-stdlib", "-Werror", "-cp", str(library), "-d", str(folder / "out")]
    sources = [*map(str, folder.glob("*.kt")), str(Path(__file__).with_name("usage.kt"))]
    said = subprocess.run([*main, *flags, *sources], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    machine = ["java", "-Xcheck:jni", f"-Djava.library.path={folder}"]
    program = ["-cp", f"{folder / 'out'}:{library}", "UsageKt", str(folder)]
    done = subprocess.run([*machine, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
