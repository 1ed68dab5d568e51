"""Names of targets, and what ``native`` means on the machine at hand."""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecc.errors import TargetError
from sparsecc.targets.arm import (
    ARM64_A55,
    ARM64_A76,
    ARM64_ANDROID,
    ARM64_IOS,
    ARM64_LINUX,
    ARM64_MACOS,
    ARM64_X1,
)
from sparsecc.targets.base import Backend, Isa, Target, Triple
from sparsecc.targets.cuda import CUDA_SM_80, CUDA_SM_90, MULTIPROCESSORS, named_arch
from sparsecc.targets.device import capability, runs_on
from sparsecc.targets.web import WASM, WASM_RELAXED
from sparsecc.targets.x86 import X86_64, X86_64_V3, X86_64_V4, X86_64_WINDOWS

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        *(X86_64, X86_64_V3, X86_64_V4, X86_64_WINDOWS),
        *(ARM64_LINUX, ARM64_A55, ARM64_A76, ARM64_X1),
        *(ARM64_ANDROID, ARM64_IOS, ARM64_MACOS),
        *(WASM, WASM_RELAXED),
        *(CUDA_SM_80, CUDA_SM_90),
    )
}
BACKENDS: Mapping[str, tuple[Backend, ...]] = {
    "x86_64-linux-gnu": ("onnxruntime", "bundle", "tvm"),
    "aarch64-linux-gnu": ("onnxruntime", "bundle", "tvm"),
    "aarch64-linux-android": ("onnxruntime", "bundle"),
    "aarch64-ios.13.0": ("onnxruntime", "bundle"),
    "aarch64-macos.11.0": ("onnxruntime", "bundle"),
    "x86_64-windows-gnu": ("onnxruntime", "bundle"),
}
"""Triple → what can be made for it; for any other only a target's own backend."""
GPU_HOST: Triple = "x86_64-linux-gnu"
"""Of the machine that a GPU is in."""
FILE_SUFFIX = ".json"
"""Ends the name of a target that is the path of a file."""

_LEAST: Mapping[str, Isa] = {"wasm": "wasm-simd128"}
"""Of a family, the instruction set that no artifact can do without: that of all engines."""

_MACHINES: Mapping[tuple[str, str], Triple] = {
    ("Linux", "x86_64"): "x86_64-linux-gnu",
    ("Linux", "amd64"): "x86_64-linux-gnu",
    ("Linux", "aarch64"): "aarch64-linux-gnu",
    ("Linux", "arm64"): "aarch64-linux-gnu",
    ("Windows", "amd64"): "x86_64-windows-gnu",
    ("Darwin", "arm64"): "aarch64-macos.11.0",
}
"""System and processor, as Python's ``platform`` names them, and the triple of their targets."""

_V3_FLAGS = {"avx2", "fma", "bmi2", "f16c"}
_V4_FLAGS = _V3_FLAGS | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor, as Linux names them; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _here() -> str:
    """Triple of this machine; empty where there is none."""
    return _MACHINES.get((platform.system(), platform.machine().lower()), "")


def _native() -> Target:
    if platform.system() != "Linux":
        here = [
            name for name, target in TARGETS.items() if target.triple and target.triple == _here()
        ]
        raise TargetError(
            f"on {platform.system()} the best target is not known",
            fix=f"name it: {', '.join(here) or ', '.join(TARGETS)}",
        )
    if _here() == ARM64_LINUX.triple:
        return ARM64_LINUX
    flags = _cpu_flags()
    if _here() == X86_64.triple and flags >= _V4_FLAGS:
        return X86_64_V4
    if _here() == X86_64.triple and flags >= _V3_FLAGS:
        return X86_64_V3
    raise TargetError(
        f"this {platform.machine()} processor has no kernels: x86-64 needs AVX2 and FMA",
        fix=f"compile for another machine with one of: {', '.join(TARGETS)}",
    )


def get(name: str) -> Target:
    """The target of a name, or the best one for this machine for ``native``.

    Raises:
        TargetError: The name is unknown, or this machine has no kernels.
    """
    if name == "native":
        return _native()
    if name in TARGETS:
        return TARGETS[name]
    if named_arch(str(name)):
        gpus = [each for each, target in TARGETS.items() if target.family == "cuda"]
        raise TargetError(
            f"there are no kernels for the GPU of {name!r}", fix=f"use {' or '.join(gpus)}"
        )
    raise TargetError(
        f"unknown target {name!r}",
        fix=f"use native, the path of a target file (*.json) or one of: {', '.join(TARGETS)}",
    )


def read(name: str) -> Target:
    """What a user names as a target: a name as :func:`get` takes it, or the path of a file.

    Raises:
        TargetError: The name is unknown, this machine has no kernels, or the file is no target.
    """
    if not str(name).endswith(FILE_SUFFIX):
        return get(name)
    target = Target.load(name)
    if target.name == "native" or target != TARGETS.get(target.name, target):
        raise TargetError(
            f"{name}: {target.name!r} is the name of another target", fix="give it its own name"
        )
    return target


def with_backend(target: Target, backend: str | None) -> Target:
    """The target, with the backend that is asked for in the place of its own.

    Raises:
        TargetError: The backend is unknown, or makes nothing for such a target.
    """
    if backend is None:
        return target
    able = BACKENDS.get(target.triple, (target.backend,))
    for each in able:
        if each == backend:
            return dataclasses.replace(target, backend=each)
    raise TargetError(
        f"no backend '{backend}' for {target.name}", fix=f"use one of {', '.join(able)}"
    )


def described(name: str, hardware: Mapping[str, Any]) -> Target:
    """The target an artifact was made for.

    Args:
        name: Its name.
        hardware: All its fields, as its file has them; empty in artifacts of older versions.

    Raises:
        TargetError: The name is unknown, the fields are no target's, or the two disagree.
    """
    if not hardware:
        return get(name)
    target = Target.from_json(json.dumps(dict(hardware)), "the artifact's target")
    if target.name != name:
        raise TargetError(
            f"the artifact is for {name!r} and describes {target.name!r}",
            fix="compile the model again",
        )
    return target


def is_buildable(target: Target) -> bool:
    """Whether a backend can make artifacts for a target."""
    if target.family == "cuda":
        return named_arch(target.name) in MULTIPROCESSORS and target.backend == "tvm"
    return bool(target.isas) and _LEAST.get(target.family, target.isas[0]) in target.isas


def buildable(target: Target) -> Target:
    """The target itself, if a backend can build for it.

    Raises:
        TargetError: None can yet; times can be estimated for it all the same.
    """
    if is_buildable(target):
        return target
    able = ", ".join(name for name, each in TARGETS.items() if is_buildable(each))
    raise TargetError(
        f"no backend can build for {target.name} yet: there are only estimates for it",
        fix=f"estimate with `sparsecc inspect --target {target.name}`, or compile for {able}",
    )


def runs_here(target: Target) -> bool:
    """Whether this machine can run a target's library.

    Outside Linux nothing tells what its processor has: the library itself does when it is loaded.
    """
    if target.family == "cuda":
        return _here() == GPU_HOST and runs_on(named_arch(target.name), capability())
    if not target.isas or target.triple != _here():
        return False
    if target.triple != X86_64.triple:
        return True
    try:
        native = _native()
    except TargetError:
        return False
    order = (X86_64_V3.name, X86_64_V4.name)
    return order.index(target.isas[0]) <= order.index(native.name)
