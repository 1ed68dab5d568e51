"""Calibration tables: what was measured on a machine, what was learned from it, as strict JSON."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import pydantic

from sparsecc.cost.correction import Correction
from sparsecc.cost.families import Call, Family
from sparsecc.cost.gpu.coefficients import Coefficients
from sparsecc.cost.rates import Rates
from sparsecc.cost.roofline import GENERATED_ISA, Work
from sparsecc.errors import CostTableError
from sparsecc.targets import TARGETS, Target
from sparsecc.targets.base import TRIPLES, Triple
from sparsecc.targets.cuda import arch_of_target
from sparsecc.versioned import FileKind

FORMAT: Final = 1
MAX_BYTES = 32 << 20
RECALIBRATE = "measure again with `sparsecc calibrate`"
_HASH = 16
_BLANKS = re.compile(r"(?:/\*.*?\*/|//[^\n]*|\s)+", re.S)

Positive = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Size = Annotated[int, pydantic.Field(ge=0, lt=2**40)]
Sample = tuple[Size, Size, Size, Size, Size, bool, Size, Size, Size, Positive]
"""Rows, columns, points, groups, input elements, whether it is a convolution; rows and columns of
a block, blocks; median time, ms."""
Name = Annotated[str, pydantic.Field(max_length=200)]


class Table(pydantic.BaseModel):
    """What is known of the times of one target's kernels.

    Attributes:
        target: What was measured, all of it.
        kernels: Hash of the kernels' sources.
        machine: The processor it was measured on.
        derived: Whether nothing was measured: all follows from the target's figures.
        peak_gflops: Multiply-add peak of one core.
        bandwidths: What one core reads from each cache level, and last from memory, GB/s.
        rows: Measured times by kernel; empty in the tables that come with sparsecc.
        corrections: What was learned from them, by family of kernels.
        rates: Of all that is no layer.
        gpu: What is known of a GPU's kernels; None for other targets.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    target: Target
    kernels: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{16}$")]
    machine: Name
    derived: bool = False
    peak_gflops: Positive
    bandwidths: Annotated[tuple[Positive, ...], pydantic.Field(max_length=8)]
    rows: dict[Name, Annotated[tuple[Sample, ...], pydantic.Field(max_length=5000)]] = {}
    corrections: dict[Family, Correction] = {}
    rates: Rates = {}
    gpu: Coefficients | None = None

    @pydantic.model_validator(mode="after")
    def _is_of_its_family(self) -> Table:
        if (self.gpu is not None) != (self.target.family == "cuda"):
            raise ValueError("gpu is there for a GPU, and for nothing else")
        return self

    @property
    def hardware(self) -> Target:
        """The target with the peak and the bandwidths that were measured."""
        ghz = self.peak_gflops * self.target.ghz / self.target.peak_gflops
        return dataclasses.replace(self.target, ghz=ghz, bandwidths=self.bandwidths)

    @property
    def name(self) -> str:
        """A hash of its content: what plans call it."""
        return hashlib.sha256(TABLE_FILE.text(self).encode()).hexdigest()[:_HASH]


TABLE_FILE: FileKind[Table] = FileKind(
    what="calibration table",
    format=FORMAT,
    max_bytes=MAX_BYTES,
    adapter=pydantic.TypeAdapter(Table),
    error=CostTableError,
    fix=RECALIBRATE,
    indent=None,
)


def sample_of(call: Call, ms: float) -> Sample:
    """A measured call as a table has it."""
    work = call.work
    sizes = (work.rows, work.cols, work.points, work.groups, work.input_elements, work.is_conv)
    return (*sizes, *call.block, call.blocks, float(f"{ms:.4g}"))


def call_of(sample: Sample) -> tuple[Call, float]:
    """Inverse of :func:`sample_of`."""
    *sizes, r, c, blocks, ms = sample
    rows, cols, points, groups, inputs, is_conv = sizes
    work = Work(int(rows), int(cols), int(points), int(groups), int(inputs), bool(is_conv))
    return Call(work, (int(r), int(c)), int(blocks)), float(ms)


def kernels_hash(target: Target) -> str:
    """Changes with what a target's kernels compute how, not with comments or blanks.

    That of a GPU changes with every change of their sources.
    """
    if target.family == "cuda":
        return _hash_of_gpu(arch_of_target(target))
    return _hash_of(target.isas, (*TRIPLES[target.family], target.triple)[0])


@functools.cache
def _hash_of(isas: tuple[str, ...], triple: Triple) -> str:
    from sparsecc.backends.codegen import outer_product, x86_encoder
    from sparsecc.backends.codegen.toolchain import compile_flags
    from sparsecc.backends.kernels.sources import isa_units, timed_sources

    parts = {name: _BLANKS.sub(" ", text) for name, text in timed_sources(isas).items()}
    if GENERATED_ISA in isas:
        for module in (outer_product, x86_encoder):
            parts[module.__name__] = Path(str(module.__file__)).read_text(encoding="utf-8")
    timed = [unit for unit in isa_units(isas) if unit.source in parts]
    content = repr((sorted(parts.items()), timed, compile_flags(triple)))
    return hashlib.sha256(content.encode()).hexdigest()[:_HASH]


@functools.cache
def _hash_of_gpu(arch: str) -> str:
    from sparsecc.backends.cuda import kernels
    from sparsecc.backends.cuda.table import KERNELS

    files = sorted(Path(str(kernels.__file__)).parent.glob("*.*"))
    parts = [(each.name, each.read_text(encoding="utf-8")) for each in files]
    rows = [each for each in KERNELS.values() if arch in each.launches]
    return hashlib.sha256(repr((parts, rows)).encode()).hexdigest()[:_HASH]


def read_table(path: Path, target: Target) -> Table:
    """A table of a target and of these kernels.

    Raises:
        CostTableError: It cannot be read, or is of another target or of other kernels.
    """
    table = TABLE_FILE.load(path)
    if dataclasses.replace(table.target, backend=target.backend) != target:
        raise CostTableError(
            f"{path} was measured for another target than {target.name} is now", fix=RECALIBRATE
        )
    kernels = kernels_hash(target)
    if table.kernels != kernels and not _is_of_no_kernel(table):
        raise CostTableError(
            f"{path} was measured with other kernels: {table.kernels}, these are {kernels}",
            fix=RECALIBRATE,
        )
    return table


def _is_of_no_kernel(table: Table) -> bool:
    """Whether it says what is assumed of a GPU, whatever its kernels are."""
    return table.derived and table.gpu is not None


def measured_as(target: Target) -> Target:
    """The target whose table serves.

    Of several instruction sets that of the best one alone; of another system that of Linux.
    """
    first = TRIPLES[target.family][:1]  # Linux, or all there is
    if len(target.isas) == 1 and target.triple in first:
        return target
    for each in TARGETS.values():
        if each.triple not in first or each.isas != target.isas[-1:]:
            continue
        here = dataclasses.replace(target, name=each.name, triple=each.triple, isas=each.isas)
        if here == dataclasses.replace(each, backend=target.backend):
            return here
    return target


def own_path(target: Target) -> Path:
    """Where the user's table of a target is kept."""
    from sparsecc.backends.codegen.cache import cache_dir

    return cache_dir() / "calibration" / f"{target.name}.json"


def shipped_path(target: Target) -> Path | None:
    """The table that comes with sparsecc for a target, if there is one."""
    path = Path(str(resources.files("sparsecc.cost"))) / "tables" / f"{target.name}.json"
    return path if path.is_file() else None
