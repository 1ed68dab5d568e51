"""Machines that run steps over images."""

from __future__ import annotations

import pytest

from sparsecc.backends.kernels.step_harness import build_image_steps
from sparsecc.backends.kernels.table import ISAS
from tests.backends.kernels.chain_cases import Machine
from tests.backends.kernels.executables import command_of


@pytest.fixture(scope="module", params=list(ISAS))
def machine(request: pytest.FixtureRequest) -> Machine:
    """The executable of an instruction set."""
    return Machine(command_of(request.param, build_image_steps), ISAS[request.param].lanes)
