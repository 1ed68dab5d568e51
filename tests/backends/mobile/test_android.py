"""The Android artifact: a module that Gradle takes, and a library that Android would load."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import capstone
import lief
import numpy as np
import pytest

import sparsecc
from sparsecc import manifest as manifests
from sparsecc.backends.bundle.parts import HERE as BUNDLE
from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.backends.kernels.sources import HERE as KERNELS
from sparsecc.backends.kernels.sources import read_sources
from tests.backends.kernels.executables import emulator
from tests.backends.mobile.conftest import Network, files

LIBRARY = "src/main/jniLibs/arm64-v8a/libmodel.so"
WEIGHTS = "src/main/assets/model.bin"
CALLS = {"inputs", "outputs", "create", "plan", "run", "error", "destroy"}


def test_the_folder_is_a_gradle_module(android: Path) -> None:
    sources = {
        f"src/main/kotlin/sparsecc/model/{each}.kt" for each in ("Assets", "Model", "Native")
    }
    own = {"README.md", "build.gradle.kts", "consumer-rules.pro", "src/main/AndroidManifest.xml"}
    assert files(android) == {
        *(LIBRARY, WEIGHTS, "include/model.h", "lib/libmodel.a"),
        *(*sources, *own, "manifest.json", "report.html"),
    }
    for name in (*sources, *own):
        assert "NAME" not in (android / name).read_text()
    readme = (android / "README.md").read_text()
    assert 'mapOf("image" to Tensor(values, 1, 3, 64, 64))' in readme
    manifest = manifests.read_manifest(android)
    manifests.check_files(android, manifest)
    assert manifest.not_run


def test_the_library_needs_nothing_and_has_pages_of_16_kb(android: Path) -> None:
    library = lief.parse(str(android / LIBRARY))
    assert isinstance(library, lief.ELF.Binary)
    assert list(library.libraries) == []
    assert [each.name for each in library.imported_symbols if each.name] == []
    exported = {str(each.name) for each in library.exported_symbols}
    assert exported == {"JNI_OnLoad", *(f"model_{call}" for call in CALLS)}
    loaded = [each for each in library.segments if each.type == lief.ELF.Segment.TYPE.LOAD]
    assert {each.alignment for each in loaded} == {1 << 14}


def test_the_register_that_android_keeps_is_left_alone(android: Path) -> None:
    library = lief.parse(str(android / LIBRARY))
    assert isinstance(library, lief.ELF.Binary)
    (code,) = (each for each in library.sections if each.name == ".text")
    reader = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    reader.skipdata = True
    used = [
        f"{name} {operands}"
        for _, _, name, operands in reader.disasm_lite(bytes(code.content), 0)
        if re.search(r"\b[wx]18\b", operands)
    ]
    assert used == []


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How to run what loads a library as Android does."""
    qemu = emulator()
    if qemu is None:
        pytest.skip("qemu-aarch64 is not installed")
    folder = tmp_path_factory.mktemp("loader")
    for name, text in read_sources(KERNELS / "driver", BUNDLE).items():
        (folder / name).write_text(text)
    source = str(Path(__file__).with_name("loader.c"))
    flags = ("-O1", "-g0", "-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector")
    flags += ("-fno-sanitize=all", f"-I{folder}", "-Wall", "-Wextra", "-Werror")
    units = (source, "check.c", "-DSC_SUFFIX=neon", "-DVB=16")
    run_zig(["cc", "-target", "aarch64-linux-gnu", *flags, *units, "-o", "loader"], folder)
    return [qemu, str(folder / "loader")]


def loaded(
    loader: list[str], library: bytes, weights: bytes, *inputs: bytes
) -> subprocess.CompletedProcess[bytes]:
    parts = (library, weights, *inputs)
    given = b"".join(len(part).to_bytes(8, sys.byteorder) + part for part in parts)
    return subprocess.run(loader, input=given, capture_output=True, check=False, timeout=120)


def test_a_loader_of_16_kb_pages_runs_it(
    loader: list[str], android: Path, network: Network
) -> None:
    parts = ((android / LIBRARY).read_bytes(), (android / WEIGHTS).read_bytes())
    done = loaded(loader, *parts, network.x.tobytes())
    assert done.returncode == 0, done.stderr
    network.check(np.frombuffer(done.stdout, np.float32))


def test_the_loader_would_see_a_library_that_android_would_not_load(
    loader: list[str], android: Path, network: Network, tmp_path: Path
) -> None:
    weights = (android / WEIGHTS).read_bytes()
    (tmp_path / "bad.c").write_text("int other(void); int call(void) { return other(); }")
    base = ["cc", "-target", "aarch64-linux-android", "-nostdlib", "-fPIC", "-c", "bad.c"]
    run_zig([*base, "-o", "bad.o"], tmp_path)
    wrong = {
        "an undefined symbol": ("-z", "max-page-size=16384"),
        "a segment is not aligned to 16 KB": ("-z", "max-page-size=4096"),
    }
    for message, flags in wrong.items():
        run_zig(["ld.lld", "-shared", *flags, "bad.o", "-o", "bad.so"], tmp_path)
        done = loaded(loader, (tmp_path / "bad.so").read_bytes(), weights)
        assert (done.returncode, done.stderr.decode()) == (3, message)
    done = loaded(loader, (android / LIBRARY).read_bytes(), weights[:-1] + b"\xff")
    assert done.returncode == 3
    assert b"model: " in done.stderr


def test_the_same_model_gives_the_same_bytes(android: Path, network: Network) -> None:
    compiled = sparsecc.compile(network.model, "arm64-android", name="model")
    again = compiled.path
    assert files(again) == files(android)
    for name in files(again):
        assert (again / name).read_bytes() == (android / name).read_bytes(), name
