"""The custom-op library that gives ONNX Runtime the ops of the ``sparsecc`` domain."""

from __future__ import annotations

from pathlib import Path

from sparsecc.backends.codegen.code_table import CodeTable
from sparsecc.backends.codegen.systems import SYSTEMS
from sparsecc.backends.codegen.toolchain import (
    OBJECT_FLAGS,
    Build,
    Unit,
    build_cached,
    copy_into,
    link_library,
    shared_library,
    static_library,
)
from sparsecc.backends.kernels.sources import read_sources, units
from sparsecc.backends.onnxruntime.ep_header import HEADER, ep_header
from sparsecc.targets.base import Target

HERE = Path(__file__).parent
UNITS = (
    *("custom_ops.c", "layer.c", "region_op.c"),
    *("ep.c", "ep_claim.c", "ep_match.c", "ep_chain.c", "ep_weight.c", "ep_graph.c"),
)
"""Compiled once, for a CPU that may have no instruction set of the kernels."""


EXPORTS = ("RegisterCustomOps", "CreateEpFactories", "ReleaseEpFactory")
"""What ONNX Runtime looks for in the library."""


def library_name(target: Target) -> str:
    """File name of a target's library."""
    system = SYSTEMS[target.triple]
    return (system.shared or system.archive).format(f"sparsecc-{target.name}")


def _parts(target: Target) -> tuple[dict[str, str], tuple[Unit, ...]]:
    return read_sources(HERE) | {HEADER: ep_header(target)}, units(target.isas, *UNITS)


def library_build(target: Target) -> Build:
    """What every library of a target is made of, as one object of ELF."""
    sources, parts = _parts(target)
    return Build(
        name=f"sparsecc-{target.name}.o",
        triple=target.triple,
        sources=sources,
        units=parts,
        link_flags=OBJECT_FLAGS,
    )


def _finished(target: Target) -> Path:
    """The library of a target that code of a model is never linked into, in the cache."""
    what = (f"sparsecc-{target.name}", target.triple, *_parts(target))
    if SYSTEMS[target.triple].shared:
        return build_cached(shared_library(*what, EXPORTS))
    return build_cached(static_library(*what))


def build_library(
    target: Target, out_dir: Path | None = None, table: CodeTable | None = None
) -> Path:
    """Link the custom-op library of a target; what models share comes from the cache.

    Args:
        target: Hardware to build for; it need not be this machine's.
        out_dir: Folder to put the library into; without it the path in the cache is returned.
        table: Code generated for the weights of one model; it needs ``out_dir``.

    Returns:
        Path of the library; its name is :func:`library_name`.

    Raises:
        BackendError: zig failed, or a folder cannot be written.
    """
    if table is None or not table.count or out_dir is None:
        library = _finished(target)
        return library if out_dir is None else copy_into(library, out_dir)
    library = out_dir / library_name(target)
    link_library(build_cached(library_build(target)), library, target.triple, table.files("codes"))
    return library
