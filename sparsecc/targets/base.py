"""The form of a target, and its file: versioned JSON, strictly checked."""

from __future__ import annotations

import os
from typing import Annotated, Final, Literal

import pydantic
from pydantic.dataclasses import dataclass

from sparsecc.errors import TargetError
from sparsecc.versioned import FileKind

FORMAT: Final = 1
"""Version of the target file this code reads and writes."""
MAX_BYTES = 64 << 10
MOST_LEVELS = 4
MOST_LANES = 64

Family = Literal["x86-64", "arm64", "wasm", "cuda"]
Triple = Literal[
    "",
    "x86_64-linux-gnu",
    "x86_64-windows-gnu",
    "aarch64-linux-gnu",
    "aarch64-linux-android",
    "aarch64-macos.11.0",
    "aarch64-ios.13.0",
    "wasm32-freestanding",
]
"""zig's, with the oldest version of a system where there are versions."""
Isa = Literal["x86-64-v3", "x86-64-v4", "arm64-neon", "wasm-simd128", "wasm-relaxed"]
"""Instruction sets that there are kernels for: the names of ``backends/kernels/table.py``."""
Backend = Literal["onnxruntime", "bundle", "tvm"]
"""What a compiled model is: an ONNX file with a library of ops beside it; a library that needs no
runtime; a library that TVM's virtual machine drives."""

TRIPLES: dict[Family, tuple[Triple, ...]] = {
    "x86-64": ("x86_64-linux-gnu", "x86_64-windows-gnu"),
    "arm64": (
        *("aarch64-linux-gnu", "aarch64-linux-android"),
        *("aarch64-macos.11.0", "aarch64-ios.13.0"),
    ),
    "wasm": ("wasm32-freestanding",),
    "cuda": (),
}
"""Of each family, what can be built for; kernels alone are built for the first."""

Positive = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1, lt=2**40)]


@dataclass(frozen=True, config=pydantic.ConfigDict(strict=True, extra="forbid"))
class Target:
    """One kind of hardware, as far as code generation and the cost model need it.

    Attributes:
        name: What the user writes.
        family: Kind of processor.
        triple: zig's target triple; empty where no backend can build for it yet.
        isas: Instruction-set variants that the library holds, least capable first; none where no
            backend can build for it yet.
        lanes: float32 lanes of a vector register of the best variant; of a warp on a GPU.
        fma_ports: Vector multiply-adds started per cycle by one core (streaming multiprocessor).
        registers: Vector registers; of a GPU, 32-bit registers of a thread.
        ghz: Clock of a typical core under vector load.
        threads: Cores that work together; of a GPU, streaming multiprocessors.
        caches: Bytes of each cache level that one core can fill, the nearest first.
        bandwidths: What one core reads from each of these levels, and last from memory, GB/s; a
            GPU as a whole.
        int8_gain: Multiply-adds of bytes for each one of float32.
        tensor_tflops: float16 matrix units of a GPU as a whole, TFLOP/s; 0 where there are none.
        backend: What a model that is compiled for it is, unless another is asked for.

    Raises:
        pydantic.ValidationError: A field is of another type or out of bounds, or two contradict.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    family: Family
    triple: Triple
    isas: Annotated[tuple[Isa, ...], pydantic.Field(max_length=4)]
    lanes: Annotated[int, pydantic.Field(ge=1, le=MOST_LANES)]
    fma_ports: Positive
    registers: Count
    ghz: Positive
    threads: Count
    caches: Annotated[tuple[Count, ...], pydantic.Field(min_length=1, max_length=MOST_LEVELS)]
    bandwidths: Annotated[tuple[Positive, ...], pydantic.Field(max_length=MOST_LEVELS + 1)]
    int8_gain: Positive
    tensor_tflops: Annotated[float, pydantic.Field(ge=0, le=1e6, allow_inf_nan=False)] = 0.0
    backend: Backend = "onnxruntime"

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Target:
        if self.lanes & (self.lanes - 1):
            raise ValueError("lanes is not a power of two")
        if len(self.bandwidths) != len(self.caches) + 1:
            raise ValueError("bandwidths needs one number per cache, and one for memory")
        if list(self.caches) != sorted(set(self.caches)):
            raise ValueError("caches do not grow from level to level")
        if bool(self.triple) != bool(self.isas):
            raise ValueError("triple and isas go together: both or neither")
        if not all(isa.startswith(self.family) for isa in self.isas):
            raise ValueError(f"isas has kernels for another family than {self.family}")
        if self.triple and self.triple not in TRIPLES[self.family]:
            raise ValueError(f"triple is of another family than {self.family}")
        return self

    @property
    def peak_gflops(self) -> float:
        """float32 multiply-add peak of one core, or of a whole GPU, GFLOP/s."""
        together = self.threads if self.family == "cuda" else 1
        return together * self.lanes * self.fma_ports * self.ghz * 2

    @property
    def best_gflops(self) -> float:
        """What nothing is quicker than, GFLOP/s: the peak, of matrix units where there are some."""
        return 1e3 * self.tensor_tflops or self.peak_gflops

    @property
    def stands_alone(self) -> bool:
        """Whether dense layers run in our library as well: no runtime is there to leave them to.

        On a GPU they are TVM's.
        """
        return self.backend != "onnxruntime" and self.family != "cuda"

    @property
    def llc_bytes(self) -> int:
        """Last-level cache a core can fill."""
        return self.caches[-1]

    @property
    def dram_gbs(self) -> float:
        """Memory bandwidth of one core, or of a whole GPU, GB/s."""
        return self.bandwidths[-1]

    def to_json(self) -> str:
        """The file's text: same target, same bytes."""
        return _FILE.text(self)

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "target") -> Target:
        """Read a target from the text of its file; ``name`` stands for it in errors.

        Raises:
            TargetError: It is not JSON, of another version, or a field is wrong.
        """
        return _FILE.parse(text, name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Target:
        """Read a target file.

        Raises:
            TargetError: The file is missing, too large or not a target.
        """
        return _FILE.load(path)


_FILE: FileKind[Target] = FileKind(
    what="target",
    format=FORMAT,
    max_bytes=MAX_BYTES,
    adapter=pydantic.TypeAdapter(Target),
    error=TargetError,
    fix="write it as docs/targets.md shows",
)
