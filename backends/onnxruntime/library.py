"""The custom-op library that gives ONNX Runtime the ops of the ``sparsecc`` domain."""

from __future__ import annotations

from pathlib import Path

from sparsecc.backends.codegen.toolchain import Build, build_cached, copy_into
from sparsecc.backends.kernels.sources import read_sources, units
from sparsecc.targets.base import Target

HERE = Path(__file__).parent


def library_name(target: Target) -> str:
    """File name of a target's library."""
    return f"libsparsecc-{target.name}.so"


def library_build(target: Target) -> Build:
    """What the library of a target is made of."""
    return Build(
        name=library_name(target),
        triple=target.triple,
        sources=read_sources(HERE),
        units=units(target.isas, "custom_ops.c"),
    )


def build_library(target: Target, out_dir: Path | None = None) -> Path:
    """Build the custom-op library of a target, or find it in the cache.

    Args:
        target: Hardware to build for; it need not be this machine's.
        out_dir: Folder to copy the library into; without it the path in the cache is returned.

    Returns:
        Path of ``libsparsecc-<target name>.so``.

    Raises:
        BackendError: zig failed, or a folder cannot be written.
    """
    built = build_cached(library_build(target))
    return built if out_dir is None else copy_into(built, out_dir)
