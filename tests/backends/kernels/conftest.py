"""Machines that run steps of regions."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsecc.backends.kernels.step_harness import (
    build_image_steps,
    build_steps,
    build_steps_sanitized,
)
from sparsecc.backends.kernels.table import ISAS
from tests.backends.kernels import int8_cases
from tests.backends.kernels.chain_cases import Machine
from tests.backends.kernels.executables import command_of, sanitized_command

INT8 = [(isa.name, dot) for isa in ISAS.values() for dot in (False, True) if isa.dot_cpu or not dot]


@pytest.fixture(scope="module", params=list(ISAS))
def machine(request: pytest.FixtureRequest) -> Machine:
    """The executable of an instruction set for steps over images."""
    return Machine(command_of(request.param, build_image_steps), ISAS[request.param].lanes)


@pytest.fixture(scope="module", params=INT8, ids=[f"{isa}{'-dot' * dot}" for isa, dot in INT8])
def int8_machine(request: pytest.FixtureRequest) -> int8_cases.Machine:
    """The executable of an instruction set for steps over bytes."""
    isa, dot = request.param
    if dot and isa == "x86-64-v4" and "avx512_vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX-512 VNNI")
    command = command_of(isa, lambda name: build_steps(name, dot=dot))
    return int8_cases.Machine(command, 128 if isa.startswith("arm64") else 0)


@pytest.fixture(scope="module")
def int8_sanitized(tmp_path_factory: pytest.TempPathFactory) -> int8_cases.Machine:
    """The same under address and undefined-behaviour sanitizers, on the best variant here."""
    return int8_cases.Machine(sanitized_command(build_steps_sanitized, tmp_path_factory), 0)
