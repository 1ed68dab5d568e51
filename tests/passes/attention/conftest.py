"""What tests of attention share."""

from collections.abc import Callable

import onnx_ir as ir
import pytest

from sparsecc.backends.onnxruntime.run import session_of_model


@pytest.fixture
def session() -> Callable[..., object]:
    """Runs a model in memory, the ops of the domain by their bodies; its first output."""

    def ran(model: ir.Model, **feed: object) -> object:
        return session_of_model(model, threads=1).run(None, feed)[0]

    return ran
