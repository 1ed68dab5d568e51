"""Bundles of other targets: the program under an emulator, modules in an engine, symbols."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks import build, spec
from sparsecc import targets
from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.bundle.localize import localize
from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.errors import BackendError
from tests.backends.bundle import wholes
from tests.backends.kernels.executables import emulator
from tests.passes.regions.wholes import made

TOLERANCE = 1e-5
CALLS = {"inputs", "outputs", "create", "plan", "run", "error", "destroy"}


def mlp_files(folder: Path, rows: int = 7) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(2).standard_normal((rows, 33)).astype(np.float32)
    np.save(folder / "x.npy", x)
    return x, wholes.run_mlp(wholes.MLP[1], x)


def run_program(command: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [*command, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module", params=["x86-64", "arm64-linux"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How to run the program of the small model, its weights beside it."""
    target = targets.TARGETS[request.param]
    command = [] if targets.runs_here(target) else [str(emulator())]
    if command == ["None"]:
        pytest.skip("qemu-aarch64 is not installed")
    folder = tmp_path_factory.mktemp("program")
    build_bundle(wholes.MLP[0], target, "tiny", folder)
    return [*command, str(folder / "tiny")]


def test_the_program_reads_and_writes_npy(program: list[str], tmp_path: Path) -> None:
    weights = Path(program[-1]).parent / "weights.bin"
    _, want = mlp_files(tmp_path)
    done = run_program(program, weights, tmp_path / "x.npy", "-o", tmp_path / "out", "-n", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" ms\n")
    got = np.load(tmp_path / "out" / "y.npy")
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    shown = run_program(program, weights, tmp_path / "x.npy").stdout
    numbers = [float(word) for word in shown.removeprefix("y [7, 5]: ").split()[:-1]]
    np.testing.assert_allclose(numbers, got.ravel()[:8], rtol=1e-4)


def test_the_program_tells_what_is_wrong(program: list[str], tmp_path: Path) -> None:
    weights = Path(program[-1]).parent / "weights.bin"
    x, _ = mlp_files(tmp_path)
    good = (tmp_path / "x.npy").read_bytes()
    files = {
        "open dimensions": x.tobytes(),
        "header is damaged": good[:9] + b"\xff" + good[10:],
        "bytes of its shape": good[:-4],
        "no type that a model takes": good.replace(b"<f4", b"<f8"),
        "C order": good.replace(b"False", b"True "),
        "header has no 'shape'": good.replace(b"'shape'", b"'sharp'"),
        "the model takes [rows, 33]": good.replace(b"(7, 33)", b"(33, 7)"),
        "shape is damaged": good.replace(b"(7, 33)", b"(x, 33)"),
    }
    for message, content in files.items():
        (tmp_path / "bad").write_bytes(content)
        done = run_program(program, weights, tmp_path / "bad")
        assert done.returncode == 1, message
        assert message in done.stderr
    assert "No such file" in run_program(program, weights, tmp_path / "none").stderr
    assert "not a weights file" in run_program(program, *[tmp_path / "x.npy"] * 2).stderr
    usage = run_program(program, weights)
    assert usage.returncode == 2
    assert "input 1: x" in usage.stderr


def test_a_network_on_arm(tmp_path: Path) -> None:
    if emulator() is None:
        pytest.skip("qemu-aarch64 is not installed")
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, 64)
    model, feeds = build.build(layers, "4x1:0.8"), build.inputs(layers)
    whole, _, _ = made(model)
    build_bundle(whole, targets.TARGETS["arm64-linux"], "net", tmp_path)
    (image,) = feeds.values()
    image.tofile(tmp_path / "image")
    command = [str(emulator()), str(tmp_path / "net")]
    done = run_program(command, tmp_path / "weights.bin", tmp_path / "image", "-o", tmp_path)
    assert done.returncode == 0, done.stderr

    session = ort.InferenceSession(model.SerializeToString())
    (want,) = session.run(None, feeds)
    got = np.load(tmp_path / f"{session.get_outputs()[0].name}.npy")
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


# ---- WebAssembly ----
@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    build_bundle(wholes.MLP[0], targets.TARGETS["wasm"], "tiny", folder)
    return folder


@pytest.mark.parametrize("name", ["model.wasm", "model.relaxed.wasm"])
def test_a_module_in_an_engine(modules: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("wasmtime")
    from sparsecc.backends.web.run import WebSession

    x, want = mlp_files(tmp_path)
    (got,) = WebSession(modules, name).run(None, {"x": x})
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_modules_import_nothing_but_a_shared_memory(modules: Path) -> None:
    wasmtime = pytest.importorskip("wasmtime")
    engine = wasmtime.Engine()
    for path in modules.glob("*.wasm"):
        module = wasmtime.Module.from_file(engine, str(path))
        wanted = ["memory"] if "threads" in path.name else []
        assert [each.name for each in module.imports] == wanted
        exported = {each.name for each in module.exports}
        assert {f"model_{call}" for call in CALLS} <= exported
        assert "__stack_pointer" not in exported
    assert len(list(modules.glob("*.wasm"))) == 4


def test_modules_have_the_same_bytes_twice(modules: Path, tmp_path: Path) -> None:
    for path in build_bundle(wholes.MLP[0], targets.TARGETS["wasm"], "tiny", tmp_path):
        assert path.read_bytes() == (modules / path.name).read_bytes(), path.name


@pytest.mark.parametrize("pattern", [[], ["4x1:0.8"]])
def test_a_mobilenet_is_small(tmp_path: Path, pattern: list[str]) -> None:
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, 64)
    whole, _, _ = made(build.build(layers, *pattern))
    build_bundle(whole, targets.TARGETS["wasm"], "net", tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.wasm")}
    assert all(size <= 150_000 for size in sizes.values()), sizes


# ---- static libraries ----
def test_only_the_api_is_global(mlp_folder: Path, tmp_path: Path) -> None:
    run_zig(["ar", "x", str(mlp_folder / "libtiny.a")], tmp_path)
    content = (tmp_path / "tiny.o").read_bytes()
    names = {f"tiny_{call}".encode() for call in CALLS}
    assert defined(content) == names
    assert localize(content) == content


def defined(content: bytes) -> set[bytes]:
    """Names of the global symbols that an ELF object defines."""
    data = np.frombuffer(content, np.uint8)
    at, count = int(data[40:48].view("<u8")[0]), int(data[60:62].view("<u2")[0])
    sections = data[at : at + 64 * count].reshape(count, 64)
    table = next(section for section in sections if section[4:8].view("<u4")[0] == 2)
    first, size = (int(number) for number in table[24:40].view("<u8"))
    texts = sections[int(table[40:44].view("<u4")[0])]
    strings = int(texts[24:32].view("<u8")[0])
    found = set()
    for symbol in data[first : first + size].reshape(-1, 24):
        if symbol[4] >> 4 and symbol[6:8].view("<u2")[0]:
            begin = strings + int(symbol[:4].view("<u4")[0])
            found.add(content[begin : content.index(b"\0", begin)])
    return found


def test_what_is_no_object_is_no_object() -> None:
    with pytest.raises(ValueError, match="ELF"):
        localize(b"nothing")


def test_an_object_must_have_a_plain_name(tmp_path: Path) -> None:

    for name in ("../x.o", "00-model_plan.o"):
        whole = dataclasses.replace(wholes.MLP[0], objects={name: b""})
        with pytest.raises(BackendError, match="plain name"):
            build_bundle(whole, targets.TARGETS["x86-64"], "tiny", tmp_path)
