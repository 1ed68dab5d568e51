"""Runs passes on a model written as text and holds the result against the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsecc.capture import capture
from sparsecc.passes.base import Context, Pass, Refusal, run

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """What became of a model.

    Attributes:
        model: After the passes.
        ops: Its op types, in order.
        refusals: What the passes declined.
        modified: What they said.
    """

    model: ir.Model
    ops: list[str]
    refusals: list[Refusal]
    modified: bool


def make(text: str, weights: Arrays) -> onnx.ModelProto:
    """A model from onnx's text format, with weights."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    return proto


def run_passes(
    passes: Sequence[Pass], proto: onnx.ModelProto, feeds: Arrays, rtol: float = 2e-6
) -> Result:
    """Run passes under the verifier; the outputs must stay equal, scaled to their size."""
    wanted = ReferenceEvaluator(proto).run(None, dict(feeds))
    model, ctx = capture(proto), Context(verify=True)
    modified = run(passes, model, ctx)
    after = ir.to_proto(model)
    got = onnxruntime.InferenceSession(after.SerializeToString()).run(None, dict(feeds))
    for one, other in zip(wanted, got, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, one, rtol=0, atol=rtol * max(1.0, np.abs(one).max()))
    return Result(model, [node.op_type for node in model.graph], ctx.refusals, modified)


@pytest.fixture
def build() -> Callable[..., onnx.ModelProto]:
    return make


@pytest.fixture
def check() -> Callable[..., Any]:
    return run_passes
