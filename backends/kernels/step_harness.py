"""An executable that runs one step of a region: for emulators, sanitizers and timing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.code_table import Pattern, code_table
from sparsecc.backends.codegen.toolchain import Unit
from sparsecc.backends.kernels.execute import executable, execute
from sparsecc.backends.kernels.harness import sanitized
from sparsecc.backends.kernels.sources import (
    CLANG_WIDE,
    PIXELS,
    TOKENS,
    int8_units,
)
from sparsecc.backends.kernels.table import ISAS, RANK, TOKENS_IN_LANES, TYPES

Array = NDArray[np.generic]

KINDS = ("conv", "depthwise", "maxpool", "quantize", "dequantize", "add", "mean")
"""The int8 step kinds without their prefix, as the executable numbers them."""

TOKEN_KINDS = (
    *("matmul16", "attention", "attention_blocks", "layer_norm", "softmax", "activation", "add"),
    *("select", "to_t64", "from_t64", "matmul", "patches", "moe"),
)
"""The step kinds of transformers, which have an executable of their own."""

TIMED_KINDS = ("chain", "matmul", "matmul16", "attention")
"""The step kinds of layers, as the executable that times them numbers them."""

IMAGE_KINDS = ("chain", "pool", "mean", "scale", "flatten")
"""The same for those of images in rows and columns."""

PLAIN, C4, T64 = range(3)
HEADER_BYTES = (3 + RANK) * 8


@dataclass(frozen=True)
class Tensor:
    """A tensor and how it lies.

    Attributes:
        data: Its elements as they lie; ``[N, ceil(C/4), H, W, 4]`` in layout C4.
        dims: Its dimensions.
        layout: ``PLAIN``, ``C4`` or ``T64``.
    """

    data: Array
    dims: tuple[int, ...]
    layout: int = PLAIN

    def to_bytes(self) -> bytes:
        """Type, layout, rank and dimensions as int64, then the elements."""
        described = [TYPES.index(self.data.dtype.name), self.layout, len(self.dims), *self.dims]
        described += [0] * (3 + RANK - len(described))
        return np.array(described, np.int64).tobytes() + np.ascontiguousarray(self.data).tobytes()


def to_c4(x: NDArray[np.uint8], bias: int, beyond: int = 0) -> Tensor:
    """Bytes ``[N, C, H, W]`` in layout C4.

    Args:
        x: The bytes.
        bias: What the instruction set takes off every byte.
        beyond: What lies in the channels that fill up the last group.
    """
    n, c, h, w = x.shape
    padded = np.full((n, -(-c // 4) * 4, h, w), beyond, np.uint8)
    padded[:, :c] = x
    lanes = padded.reshape(n, -1, 4, h, w).transpose(0, 1, 3, 4, 2)
    return Tensor(lanes - np.uint8(bias), x.shape, C4)


def from_c4(tensor: Tensor, bias: int) -> NDArray[np.uint8]:
    """Inverse of :func:`to_c4`."""
    n, c, h, w = tensor.dims
    lanes = tensor.data.view(np.uint8).reshape(n, -1, h, w, 4) + np.uint8(bias)
    return np.ascontiguousarray(lanes.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c])


def to_t64(x: NDArray[np.float32], beyond: float = 0) -> Tensor:
    """Tokens ``[..., F]`` in layout T64.

    Args:
        x: The tokens.
        beyond: What lies in the lanes that have no token.
    """
    rows = x.reshape(-1, x.shape[-1])
    pieces = -(-len(rows) // TOKENS_IN_LANES)
    padded = np.full((pieces * TOKENS_IN_LANES, x.shape[-1]), beyond, np.float32)
    padded[: len(rows)] = rows
    return Tensor(padded.reshape(-1, TOKENS_IN_LANES, x.shape[-1]).swapaxes(1, 2), x.shape, T64)


def from_t64(tensor: Tensor) -> NDArray[np.float32]:
    """Inverse of :func:`to_t64`."""
    features = tensor.dims[-1]
    rows = tensor.data.reshape(-1, features, TOKENS_IN_LANES).swapaxes(1, 2).reshape(-1, features)
    kept = rows[: math.prod(tensor.dims[:-1])].reshape(tensor.dims)
    return np.ascontiguousarray(kept, np.float32)


@dataclass(frozen=True)
class Step:
    """One step: its kind, attributes, constants and inputs, and how it runs.

    Code is generated for ``patterns``, whether the step has a layer of theirs or not.
    """

    kind: str
    attributes: Sequence[int]
    constants: Sequence[Array]
    inputs: Sequence[Tensor]
    backwards: bool = False
    repeat: int = 1
    outputs: int = 1
    kinds: Sequence[str] = KINDS
    patterns: Sequence[Pattern] = ()

    def to_bytes(self) -> bytes:
        """What the executable reads."""
        counts = (len(self.attributes), len(self.constants), len(self.inputs))
        how = (self.outputs, int(self.backwards), self.repeat)
        table = code_table(self.patterns)
        code = (table.count, len(table.cells), len(table.text))
        header = [self.kinds.index(self.kind), *counts, *how, *code]
        constants = [Tensor(array, array.shape) for array in self.constants]
        parts = [tensor.to_bytes() for tensor in (*constants, *self.inputs)]
        parts = [np.array([*header, *self.attributes], np.int64).tobytes(), *parts]
        return b"".join([*parts, table.codes, table.cells.tobytes(), table.text])


def _units(isa: str, *, dot: bool) -> tuple[Unit, ...]:
    defines = (f"VB={ISAS[isa].vector_bytes}", f"SC_SUFFIX={ISAS[isa].suffix}")
    base = (Unit("check.c"), Unit("codes.c"), Unit("cpu.c"), Unit("step.c", defines=defines))
    return int8_units(ISAS[isa], dot=dot) + base


def _driver(isa: str, names: Sequence[str]) -> Unit:
    kinds = f"SC_TEST_KINDS(X)={' '.join(f'X({kind})' for kind in names)}"
    defines = (f"VB={ISAS[isa].vector_bytes}", f"SC_SUFFIX={ISAS[isa].suffix}", kinds)
    return Unit("step.c", defines=defines)


def _step_units(isa: str, names: Sequence[str], sources: Sequence[str]) -> tuple[Unit, ...]:
    how = ISAS[isa]
    defines = (f"VB={how.vector_bytes}", f"SC_SUFFIX={how.suffix}")
    flags = CLANG_WIDE if how.vector_bytes == 64 else ()
    base = ("check.c", "cpu.c", "codes.c", "weight.c", "region_plan.c")
    return (
        *(Unit(source, how.cpu, defines, flags) for source in sources),
        *(Unit(source) for source in base),
        _driver(isa, names),
    )


def _token_units(isa: str) -> tuple[Unit, ...]:
    return _step_units(isa, TOKEN_KINDS, (*TOKENS, *PIXELS))


def _image_units(isa: str) -> tuple[Unit, ...]:
    return _step_units(isa, IMAGE_KINDS, (*PIXELS, "image.c", "planes.c"))


def build_steps(isa: str, *, dot: bool) -> Path:
    """Build the executable of an instruction set, or find it in the cache.

    Args:
        isa: Name of the instruction set.
        dot: Whether it may use the instruction for products of bytes.

    Raises:
        BackendError: zig failed.
    """
    return executable(f"steps-{isa}{'-dot' if dot else ''}", isa, _units(isa, dot=dot))


def build_token_steps(isa: str) -> Path:
    """The executable of :data:`TOKEN_KINDS`.

    Raises:
        BackendError: zig failed.
    """
    return executable(f"token-steps-{isa}", isa, _token_units(isa))


def build_image_steps(isa: str) -> Path:
    """The executable of :data:`IMAGE_KINDS`.

    Raises:
        BackendError: zig failed.
    """
    return executable(f"image-steps-{isa}", isa, _image_units(isa))


def build_timed_steps(isa: str) -> Path:
    """The executable of :data:`TIMED_KINDS` that times every run; for WebAssembly alone.

    Raises:
        BackendError: zig failed.
    """
    parts = _step_units(isa, TIMED_KINDS, (*TOKENS, *PIXELS))
    timed = tuple(
        replace(part, defines=(*part.defines, "SC_TIMED")) if part.source == "step.c" else part
        for part in parts
    )
    return executable(f"timed-steps-{isa}", isa, timed)


def times_of(step: Step, command: Sequence[str]) -> NDArray[np.float64]:
    """Times of the runs of a step, ms; the executable is one that times them.

    Raises:
        RuntimeError: It was refused or failed; with what was said.
    """
    said = execute(command, step.to_bytes())
    return np.frombuffer(said, np.int64, step.repeat) / 1e6


def build_steps_sanitized(isa: str, compiler: str, folder: Path) -> Path:
    """The executable under sanitizers, as ``harness.build_sanitized`` does it.

    Raises:
        subprocess.CalledProcessError: The compiler cannot do it.
    """
    return sanitized(_units(isa, dot=False), isa, compiler, folder)


def build_token_steps_sanitized(isa: str, compiler: str, folder: Path) -> Path:
    """The executable of :data:`TOKEN_KINDS` under sanitizers.

    Raises:
        subprocess.CalledProcessError: The compiler cannot do it.
    """
    return sanitized(_token_units(isa), isa, compiler, folder)


def build_image_steps_sanitized(isa: str, compiler: str, folder: Path) -> Path:
    """The executable of :data:`IMAGE_KINDS` under sanitizers.

    Raises:
        subprocess.CalledProcessError: The compiler cannot do it.
    """
    return sanitized(_image_units(isa), isa, compiler, folder)


def run_step(step: Step, command: Sequence[str]) -> Tensor:
    """Run a step of one output.

    Raises:
        RuntimeError: It was refused or failed; with what was said.
    """
    return run_outputs(step, command)[0]


def run_outputs(step: Step, command: Sequence[str]) -> list[Tensor]:
    """Run a step.

    Raises:
        RuntimeError: It was refused or failed; with what was said.
    """
    rest, outputs = execute(command, step.to_bytes()), []
    for _ in range(step.outputs):
        outputs.append(_read_tensor(rest))
        rest = rest[HEADER_BYTES + outputs[-1].data.nbytes :]
    return outputs


def _read_tensor(said: bytes) -> Tensor:
    kind, layout, rank, *dims = np.frombuffer(said[:HEADER_BYTES], np.int64).tolist()
    lanes = 4 if layout == C4 else 1
    padded = [-(-d // lanes) * lanes if axis == 1 else d for axis, d in enumerate(dims[:rank])]
    if layout == T64:
        tokens = math.prod(dims[: rank - 1])
        padded = [-(-tokens // TOKENS_IN_LANES) * TOKENS_IN_LANES, dims[rank - 1]]
    data = np.frombuffer(said, TYPES[kind], math.prod(padded), HEADER_BYTES)
    return Tensor(data, tuple(dims[:rank]), layout)
