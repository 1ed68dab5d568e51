"""The custom-op library that gives ONNX Runtime the ops of the ``sparsecc`` domain."""

from __future__ import annotations

from pathlib import Path

from sparsecc.backends.codegen.code_table import CodeTable
from sparsecc.backends.codegen.toolchain import (
    OBJECT_FLAGS,
    Build,
    build_cached,
    copy_into,
    link_library,
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


def library_name(target: Target) -> str:
    """File name of a target's library."""
    return f"libsparsecc-{target.name}.so"


def library_build(target: Target) -> Build:
    """What every library of a target is made of, as one object."""
    return Build(
        name=f"sparsecc-{target.name}.o",
        triple=target.triple,
        sources=read_sources(HERE) | {HEADER: ep_header(target)},
        units=units(target.isas, *UNITS),
        link_flags=OBJECT_FLAGS,
    )


def build_library(
    target: Target, out_dir: Path | None = None, table: CodeTable | None = None
) -> Path:
    """Link the custom-op library of a target; what models share comes from the cache.

    Args:
        target: Hardware to build for; it need not be this machine's.
        out_dir: Folder to put the library into; without it the path in the cache is returned.
        table: Code generated for the weights of one model; it needs ``out_dir``.

    Returns:
        Path of ``libsparsecc-<target name>.so``.

    Raises:
        BackendError: zig failed, or a folder cannot be written.
    """
    built = build_cached(library_build(target))
    if table is not None and table.count and out_dir is not None:
        library = out_dir / library_name(target)
        link_library(built, library, target.triple, table.files("codes"))
        return library
    library = built.parent / library_name(target)
    if not library.exists():
        link_library(built, library, target.triple)
    return library if out_dir is None else copy_into(library, out_dir)
