"""What tests of attention share."""

from collections.abc import Callable

import onnx_ir as ir
import pytest

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.passes.attention import constant_masks


@pytest.fixture
def session() -> Callable[..., object]:
    """Runs a model in memory, the ops of the domain by their bodies; its first output."""

    def ran(model: ir.Model, **feed: object) -> object:
        return session_of_model(model, threads=1).run(None, feed)[0]

    return ran


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can skip keys does, however few there are."""
    monkeypatch.setattr(constant_masks, "LEAST_GAIN", 0.0)
