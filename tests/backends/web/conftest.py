"""Models that are published once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.web import models


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of :func:`models.publish_all`."""
    root = tmp_path_factory.mktemp("published")
    models.publish_all(root)
    return root
