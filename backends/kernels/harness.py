"""An executable that runs one kernel call: for emulators, sanitizers and timing."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.code_table import Pattern, code_table
from sparsecc.backends.codegen.toolchain import Unit
from sparsecc.backends.kernels.execute import executable, execute
from sparsecc.backends.kernels.sources import HERE, read_sources, units
from sparsecc.backends.kernels.table import ISAS
from sparsecc.formats.blocks import BlockWeight

Result = NDArray[np.float32]
_OPS = {"conv": 0, "matmul": 1}


@dataclass(frozen=True)
class Case:
    """One call of a kernel.

    Attributes:
        op: ``conv`` or ``matmul``.
        weight: Packed ``(R, kh, kw, I/group)`` or ``(R, K)``.
        bias: ``[R]``.
        x: ``[N, I, H, W]`` or ``[T, K]``.
        residual: Of the shape of the output, or none.
        activation: Position in ``ACTIVATIONS``.
        strides, pads, dilations, group: As in the op.
        backwards: Run the tasks of every parallel loop in descending order.
        repeat: Calls to make; the last one's result is kept.
        generated: Generate code for the weight, whose blocks are 1x1.
        code_for: Generate it for this weight instead.
    """

    op: str
    weight: BlockWeight
    bias: NDArray[np.float32]
    x: NDArray[np.float32]
    residual: NDArray[np.float32] | None = None
    activation: int = 0
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    group: int = 1
    backwards: bool = False
    repeat: int = 1
    generated: bool = False
    code_for: BlockWeight | None = None

    def to_bytes(self) -> bytes:
        """What the harness reads: int64 header, then the float32 and int32 arrays."""
        conv = self.op == "conv"
        shape, (rb, kb, r, c) = self.weight.shape, self.weight.grid
        kernel = shape[1:3] if conv else (1, 1)
        batch, height, width = (len(self.x), *self.x.shape[2:]) if conv else (0, 1, 1)
        table = code_table([self._pattern()]) if self.generated else None
        header = [
            *(_OPS[self.op], shape[0], shape[-1], *kernel, r, c, rb, kb, len(self.weight.index)),
            *(*self.strides, *self.pads, *self.dilations, self.group, self.activation),
            *(batch, height, width, 0 if conv else len(self.x)),
            *(int(self.residual is not None), int(self.backwards), self.repeat),
            *((len(table.text), len(table.cells)) if table else (0, 0)),
        ]
        arrays = [self.weight.values, self.weight.index, self.bias, self.x]
        if self.residual is not None:
            arrays.append(self.residual)
        code = (table.codes, table.cells.tobytes(), table.text) if table else ()
        parts = (np.array(header, np.int64).tobytes(), *(a.tobytes() for a in arrays), *code)
        return b"".join(parts)

    def _pattern(self) -> Pattern:
        weight = self.code_for or self.weight
        return Pattern(weight.index, weight.shape[0], math.prod(weight.shape[1:]))


def build_harness(isa: str) -> Path:
    """Build the harness of an instruction set, or find it in the cache.

    Raises:
        BackendError: zig failed.
    """
    return executable(f"harness-{isa}", isa, units([isa], "harness.c"))


def build_sanitized(isa: str, compiler: str, folder: Path) -> Path:
    """The same sources under a system compiler's address and undefined-behaviour sanitizers.

    Args:
        isa: Instruction set; it must be one of the compiler's own machine.
        compiler: gcc or clang.
        folder: Folder to build in; what another executable of the same sources left there is not
            compiled again.

    Raises:
        subprocess.CalledProcessError: The compiler cannot do it.
    """
    return sanitized(units([isa], "harness.c", dot=False), isa, compiler, folder)


def sanitized(
    parts: Sequence[Unit],
    isa: str,
    compiler: str,
    folder: Path,
    sources: Mapping[str, str] | None = None,
) -> Path:
    """Units of one instruction set as an executable under sanitizers; see `build_sanitized`.

    ``sources`` are more files than those of the kernels and their drivers.
    """
    march = [f"-march={isa}"] if isa in ISAS and isa.startswith("x86") else []
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0", "-g"]
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        for name, text in (read_sources(HERE / "driver") | dict(sources or {})).items():
            (Path(aside) / name).write_bytes(text.encode())
        objects = []
        for unit in parts:
            machine = march if unit.cpu else []
            defines = [f"-D{define}" for define in unit.defines]
            command = [compiler, "-std=gnu11", *checks, *machine, *defines, "-c", unit.source]
            objects.append(_made(command, ".o", folder, Path(aside)))
        return _made([compiler, *checks, *map(str, objects)], "", folder, Path(aside))


def _made(command: Sequence[str], suffix: str, folder: Path, aside: Path) -> Path:
    """What a command makes, in a folder of such; run in the folder ``aside`` if it is not there."""
    name = hashlib.sha256(repr(command).encode()).hexdigest()[:32]
    made = folder / f"{name}{suffix}"
    if not made.exists():
        _call([*command, "-o", name], aside)
        os.replace(aside / name, made)
    return made


def _call(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def run_case(case: Case, out_shape: Sequence[int], command: Sequence[str]) -> Result:
    """Run a case.

    Args:
        case: What to run.
        out_shape: Shape of the result.
        command: The harness, as :func:`execute` takes it.

    Raises:
        RuntimeError: The harness failed; with what it said.
    """
    return np.frombuffer(execute(command, case.to_bytes()), np.float32).reshape(out_shape)
