"""Instructions of a model on 64-bit ARM, counted under emulation: `python -m benchmarks.arm`.

No hardware is timed: a count says what a processor has to do, not how long that takes. What is
counted is the second of two runs, on one thread: our own library (a bundle) on the model without
zeros and with zeros in blocks, and ONNX Runtime's wheel for 64-bit ARM on the model without zeros,
all on an emulated Cortex-A76.

It needs the emulator (Debian: qemu-user-static) and, for ONNX Runtime, a C and a C++ library of
that processor (Debian: libc6-arm64-cross, libstdc++6-arm64-cross). From 1.25 on ONNX Runtime does
not start under an emulator before version 10.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.progress import track

import sparsecc
from benchmarks import build, instructions, page, spec
from benchmarks.measure import one_line, relative_error
from sparsecc.backends.codegen.toolchain import run_zig

NAME = "arm"
HERE = Path(__file__).parent
PATTERNS = ("dense", "4x1:0.8", "4x1:0.9")
SYSROOT = Path("/usr/aarch64-linux-gnu")
PEER_VERSION = "1.24.3"
CPU = "cortex-a76"
"""What is emulated: NEON without SVE and SME, whose registers are longer."""
FLAGS = ("-O2", "-g0", "-s", f"-I{HERE}")
BUNDLE, PEER = "sparsecc", "onnxruntime"


@dataclass(frozen=True)
class Count:
    """One engine on one model.

    Attributes:
        engine: `sparsecc` or `onnxruntime`.
        pattern: Zeros of the model.
        instructions: Of one run.
        error: Largest difference to ONNX Runtime on this machine, over the largest value.
        unavailable: Why there is no count, or "".
    """

    engine: str
    pattern: str
    instructions: int = 0
    error: float = 0.0
    unavailable: str = ""


@dataclass(frozen=True)
class Model:
    """A model file, its input, and what it should compute.

    Attributes:
        path: The ONNX file.
        pattern: Its zeros.
        feed: The one input, by name.
        expected: The one output.
        output: Its name.
    """

    path: Path
    pattern: str
    feed: dict[str, NDArray[Any]]
    expected: NDArray[Any]
    output: str = "output"


def prepare(name: str, pattern: str, folder: Path) -> Model:
    """Builds a model of `benchmarks/models` unless it is there, and runs it here."""
    path, feed = build.write(name, pattern, folder), build.inputs(spec.load(name))
    return Model(path, pattern, feed, ort.InferenceSession(str(path)).run(None, feed)[0])


def runtime(version: str, folder: Path) -> Path:
    """ONNX Runtime's library for 64-bit ARM, from its wheel.

    Raises:
        RuntimeError: pip does not get it.
    """
    library = f"onnxruntime/capi/libonnxruntime.so.{version}"
    home = folder / f"onnxruntime-{version}"
    return unpacked([f"onnxruntime=={version}"], (library,), home) / library


def unpacked(requirements: Sequence[str], members: tuple[str, ...], home: Path) -> Path:
    """Parts of wheels for 64-bit ARM, from the package index unless they are there.

    Args:
        requirements: What is wanted, with versions.
        members: What names of files begin with that are kept.
        home: The folder they come to, whole or not at all.

    Returns:
        The folder.

    Raises:
        RuntimeError: pip does not get them.
    """
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (27, 28)]
    download = ["pip", "download", *requirements, "--no-deps", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        command = [sys.executable, "-m", *download, *platforms, "--quiet", "--dest", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            wanted = " and ".join(requirements)
            raise RuntimeError(f"pip has no {wanted} for ARM: {done.stderr.strip()}")
        found = Path(scratch) / "found"
        for path in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(path) as wheel:
                kept = [name for name in wheel.namelist() if name.startswith(members)]
                wheel.extractall(found, kept)
        found.rename(home)
    return home


def of_bundle(qemu: str, model: Model, folder: Path) -> Count:
    """Counts our own library."""
    bundle = folder / "bundle"
    compiled = sparsecc.compile(str(model.path), "arm64-linux", backend="bundle", name="model")
    compiled.save(bundle)
    source, program = str(HERE / "arm_bundle.c"), str((folder / "arm_bundle").resolve())
    target = ["-target", "aarch64-linux-musl", "-static", f"-I{bundle.resolve()}"]
    library = str((bundle / "libmodel.a").resolve())
    run_zig(["cc", *target, *FLAGS, source, library, "-o", program], folder)
    weights = str(bundle / "weights.bin")
    return _counted(BUNDLE, qemu, [], [program, weights], [], model, folder)


def of_peer(qemu: str, library: Path, sysroot: Path, model: Model, folder: Path) -> Count:
    """Counts ONNX Runtime."""
    program = session_program(folder)
    options = ["-L", str(sysroot), "-E", f"LD_LIBRARY_PATH={sysroot / 'lib'}"]
    before = [str(program), str(library), str(model.path), "-"]
    shape = next(iter(model.feed.values())).shape
    after = [*model.feed, model.output, *map(str, shape)]
    return _counted(PEER, qemu, options, before, after, model, folder)


def session_program(folder: Path) -> Path:
    """Builds `arm_session.c`."""
    program = (folder / "arm_session").resolve()
    target = ["-target", "aarch64-linux-gnu.2.28", "-Wno-deprecated-non-prototype"]
    source = str(HERE / "arm_session.c")
    run_zig(["cc", *target, *FLAGS, source, "-o", str(program)], folder)
    return program


def _counted(
    engine: str,
    qemu: str,
    options: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    model: Model,
    folder: Path,
) -> Count:
    given, made = folder / "input.raw", folder / "output.raw"
    next(iter(model.feed.values())).tofile(given)
    command = [*before, str(given), str(made), *after]
    (found,) = instructions.count(qemu, ["-cpu", CPU, *options], command)
    output = np.fromfile(made, np.float32).reshape(model.expected.shape)
    return Count(engine, model.pattern, found, relative_error(output, model.expected))


def section(counts: Sequence[Count], version: str) -> str:
    """The table: counts, and how many times fewer than without zeros."""
    table = {(count.engine, count.pattern): count for count in counts}
    patterns = list(dict.fromkeys(count.pattern for count in counts))
    lines = [f"| | {' | '.join(patterns)} |", f"|---|{'---|' * len(patterns)}"]
    dense = table[BUNDLE, patterns[0]]
    titles = {BUNDLE: "sparsecc's own library", PEER: f"ONNX Runtime {version}, dense"}
    for engine, title in titles.items():
        cells = (_cell(table.get((engine, pattern)), dense) for pattern in patterns)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [f"\n{count.engine}: {count.unavailable}" for count in counts if count.unavailable]
    worst = max(count.error for count in counts)
    return "\n".join(
        [*lines, "", f"Emulated: {CPU}. Largest relative error of an output: {worst:.1e}."]
    )


def _cell(count: Count | None, dense: Count) -> str:
    if count is None or not count.instructions:
        return "–"
    ratio = dense.instructions / count.instructions
    return (
        f"{count.instructions / 1e6:.0f} M ({ratio:.2f}× fewer)"
        if count != dense
        else (f"{count.instructions / 1e6:.0f} M")
    )


def main(
    name: Annotated[str, typer.Option("--model", help="A model of benchmarks/models.")] = (
        "mobilenet_v1"
    ),
    qemu: Annotated[str | None, typer.Option(help="The emulator.")] = None,
    sysroot: Annotated[Path, typer.Option(help="Libraries of the processor.")] = SYSROOT,
    version: Annotated[
        str, typer.Option("--onnxruntime", help="Its version; none to leave it out.")
    ] = PEER_VERSION,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/arm"),
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/arm.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Counts instructions; writes JSON and a table."""
    emulator = qemu or instructions.emulator()
    if emulator is None:
        raise typer.BadParameter("no emulator of 64-bit ARM is installed", param_hint="--qemu")
    folder.mkdir(parents=True, exist_ok=True)
    counts = [
        of_bundle(emulator, prepare(name, pattern, folder), folder)
        for pattern in track(PATTERNS, "counting")
    ]
    if version != "none":
        dense = prepare(name, PATTERNS[0], folder)
        try:
            library = runtime(version, folder)
            counts.append(of_peer(emulator, library, sysroot, dense, folder))
        except (RuntimeError, OSError) as error:
            counts.append(Count(PEER, PATTERNS[0], unavailable=one_line(error)))
    content = {"model": name, "counts": [asdict(count) for count in counts]}
    page.publish(NAME, section(counts, version), content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
