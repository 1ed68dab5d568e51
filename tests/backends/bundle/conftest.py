"""Bundles that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsecc import targets
from sparsecc.backends.bundle.build import build_bundle
from tests.backends.bundle import wholes


@pytest.fixture(scope="session")
def mlp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of :data:`wholes.MLP` for this machine, called ``tiny``."""
    target = targets.TARGETS["x86-64"]
    if not targets.runs_here(target):
        pytest.skip(f"this machine does not run {target.name}")
    folder = tmp_path_factory.mktemp("bundle")
    build_bundle(wholes.MLP[0], target, "tiny", folder)
    return folder
