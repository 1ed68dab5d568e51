"""What the library finds out about an ARM processor, under an emulator of several."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.backends.kernels.sources import HERE, read_sources
from tests.backends.kernels.executables import emulator

MAIN = '#include "cpu.h"\n#include "system.h"\nint main(void) { return sc_has_dot4(16) ? 1 : 0; }\n'
FLAGS = ("-O1", "-g0", "-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ends with 1 where there is the product of bytes."""
    folder = tmp_path_factory.mktemp("cpu")
    for name, text in (read_sources(HERE / "driver") | {"main.c": MAIN}).items():
        (folder / name).write_text(text)
    target = ["-target", "aarch64-linux-gnu", "-fno-sanitize=all"]
    run_zig(["cc", *target, *FLAGS, "main.c", "cpu.c", "-o", "cpu"], folder)
    return folder / "cpu"


@pytest.mark.parametrize(
    ("options", "has"),
    [
        (("-cpu", "cortex-a53"), 0),
        (("-cpu", "cortex-a72"), 0),
        (("-cpu", "neoverse-n1"), 1),
        (("-cpu", "neoverse-n1", "-r", "4.11.0-android"), 1),
        (("-cpu", "neoverse-n1", "-r", "4.9.337"), 0),  # which lets no program ask
    ],
)
def test_the_product_of_bytes_is_found(program: Path, options: tuple[str, ...], has: int) -> None:
    qemu = emulator()
    if qemu is None:
        pytest.skip("qemu-aarch64 is not installed")
    assert subprocess.run([qemu, *options, str(program)], check=False).returncode == has
