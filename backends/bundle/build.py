"""Builds a bundle: weights, header, libraries and a program, from a model that is one region.

What models share, kernels and the calls behind the C API, is compiled once and kept as an archive;
a model adds its plan, its table of step kinds, and the functions it brings. A link takes what the
plan reaches and nothing else.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sparsecc.aside import write_aside
from sparsecc.backends.bundle.native import links_of, public
from sparsecc.backends.bundle.parts import Kernels, Link, Parts, parts_of
from sparsecc.backends.bundle.plan import header, plan_source
from sparsecc.backends.bundle.weights import NAME as WEIGHTS_NAME
from sparsecc.backends.bundle.weights import write_weights
from sparsecc.backends.bundle.whole import Whole
from sparsecc.backends.codegen.toolchain import WASM_FLAGS, is_wasm, run_zig
from sparsecc.errors import ArtifactError
from sparsecc.targets import Target

WEB_NAME = "model"
"""What the functions of a WebAssembly module begin with, whatever the model is called."""
MODULES = {"wasm-simd128": "model", "wasm-relaxed": "model.relaxed"}
"""Names of modules by instruction set: a page chooses between files, not inside of one. Of each
there is one for a single thread, ``.wasm``, and one whose memory threads share,
``.threads.wasm``."""
SHARED_MEMORY_FLAGS = ("--shared-memory", "--import-memory", f"--max-memory={1 << 32}")
"""The page makes the memory; every thread has an instance of the module, and a stack of its own."""


def build_bundle(whole: Whole, target: Target, name: str, folder: Path) -> list[Path]:
    """Build the bundle of a model.

    Args:
        whole: The model.
        target: Hardware to build for; it need not be this machine's.
        name: What C functions and files begin with, as ``sparsecc.naming`` allows; those of a
            WebAssembly module with `model`.
        folder: A folder that exists.

    Returns:
        The weights, then a module per instruction set; or a header, and of a shared library, a
        static library and a program what the system has.

    Raises:
        BackendError: The model has what a bundle cannot hold, or zig failed.
        ArtifactError: The folder cannot be written.
    """
    weights = write_weights(whole.constants, whole.program.constants, folder / WEIGHTS_NAME)
    if is_wasm(target.triple):
        links: dict[str, tuple[Kernels, Link]] = {
            f"{MODULES[isa]}{'.threads' * shared}.wasm": (
                Kernels(target.triple, (isa,), shared),
                link,
            )
            for isa in target.isas
            for shared, link in ((False, _link_module), (True, _link_shared_module))
        }
        name = WEB_NAME
    else:
        kernels = Kernels(target.triple, target.isas)
        links = {file: (kernels, link) for file, link in links_of(target.triple, name).items()}
    plan = plan_source(whole, weights, name)
    made = [folder / WEIGHTS_NAME]
    try:
        if not is_wasm(target.triple):
            made.append(folder / f"{name}.h")
            write_aside(made[-1], header(name))
        for file, (kernels, link) in links.items():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
                link(parts_of(whole, plan, kernels, name, Path(scratch)), file, Path(scratch))
                os.replace(Path(scratch) / file, folder / file)
            made.append(folder / file)
    except OSError as error:
        raise ArtifactError(
            f"cannot write the bundle {folder}: {error}",
            fix="choose a folder that can be written and has room",
        ) from error
    return made


def _link_module(parts: Parts, file: str, folder: Path, *flags: str) -> None:
    exports = [f"--export={function}" for function in public(parts.name)]
    run_zig(["wasm-ld", *WASM_FLAGS, *flags, *exports, *parts.objects, "-o", file], folder)


def _link_shared_module(parts: Parts, file: str, folder: Path) -> None:
    _link_module(parts, file, folder, *SHARED_MEMORY_FLAGS)
