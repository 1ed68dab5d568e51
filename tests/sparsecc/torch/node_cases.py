"""The node tests of the ONNX project, from the onnx package, and how a result is judged."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import TensorProto

from sparsecc.torch import Interpreter
from sparsecc.torch.ops import OPS

SUPPORTED_TYPES = {
    TensorProto.UNDEFINED,
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16),
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.BOOL),
}
"""Left out: text, float8 and smaller, 4-bit, and the unsigned integers torch has no sums of."""

TRAINING = "a training step of its own: the interpreter computes what inference does"
RANDOM = "random numbers: the expected ones are of another generator"
OLD = "opset 8, before Scan had its present form"

SKIPPED: dict[str, str] = {
    "test_batchnorm_epsilon_training_mode": TRAINING,
    "test_batchnorm_example_training_mode": TRAINING,
    "test_training_dropout": TRAINING,
    "test_training_dropout_default": TRAINING,
    "test_training_dropout_default_mask": TRAINING,
    "test_training_dropout_mask": TRAINING,
    "test_training_dropout_zero_ratio": TRAINING,
    "test_training_dropout_zero_ratio_mask": TRAINING,
    "test_scan_sum": OLD,
    "test_bernoulli": RANDOM,
    "test_bernoulli_double": RANDOM,
    "test_bernoulli_double_expanded": RANDOM,
    "test_bernoulli_expanded": RANDOM,
    "test_bernoulli_seed": RANDOM,
    "test_bernoulli_seed_expanded": RANDOM,
}

MASKED = "ONNX Runtime shows the smallest float where the standard has -inf"
UNEVEN = "ONNX Runtime leaves the standard where sizes are no multiples of each other"

RUNTIME_DIFFERS: dict[str, str] = {
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": MASKED,
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": MASKED,
    "test_maxunpool_export_with_output_shape": UNEVEN,
    "test_resize_downsample_scales_cubic_align_corners": UNEVEN,
    "test_resize_downsample_scales_linear_align_corners": UNEVEN,
}

ROUGH = {torch.float16: (4e-3, 1e-3), torch.bfloat16: (1e-2, 8e-3)}
"""Relative and absolute tolerance of types with few bits: two units in the last place."""
ABSOLUTE = 1e-6


@functools.cache
def collected() -> list[Any]:
    """All node test cases whose ops, by name, and element types are supported."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():  # the references overflow on purpose
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return [
        case
        for case in cases
        if all(not n.domain and n.op_type in OPS for n in case.model.graph.node)
        and SUPPORTED_TYPES.issuperset(_types(case.model.graph))
    ]


def _types(graph: onnx.GraphProto) -> Iterator[int]:
    for value in (*graph.input, *graph.output):
        yield from _element_types(value.type)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype"):
                yield attribute.i
            if attribute.HasField("t"):
                yield attribute.t.data_type


def _element_types(type_: onnx.TypeProto) -> Iterator[int]:
    match type_.WhichOneof("value"):
        case "tensor_type":
            yield type_.tensor_type.elem_type
        case "sequence_type":
            yield from _element_types(type_.sequence_type.elem_type)
        case "optional_type":
            yield from _element_types(type_.optional_type.elem_type)


def tensor(value: Any) -> Any:
    """A value of a data set in torch: a tensor, a list of tensors or None."""
    if value is None or isinstance(value, (list, tuple)):
        return value if value is None else [tensor(each) for each in value]
    if isinstance(value, TensorProto):
        value = onnx.numpy_helper.to_array(value)
    array = np.array(value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def check(case: Any) -> None:
    """Compare the interpreter with a case's own results, and with ONNX Runtime's."""
    interpreter = Interpreter(ir.from_proto(case.model))
    session = runtime(case.model)
    names = [value.name for value in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        feed = dict(zip(names, map(tensor, inputs), strict=True))
        with torch.no_grad():
            got = list(interpreter(feed).values())
        for ours, theirs in zip(got, map(tensor, outputs), strict=True):
            compare(ours, theirs, case.rtol, case.atol)
        known = session is None or case.name in RUNTIME_DIFFERS
        expected = None if known else computed(session, feed)
        for ours, theirs in zip(got, expected or got, strict=True):
            compare(ours, theirs, case.rtol, case.atol)


def runtime(model: onnx.ModelProto) -> onnxruntime.InferenceSession | None:
    """A session, or None where ONNX Runtime cannot load the model (a newer opset, say)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:
        return None


def computed(session: onnxruntime.InferenceSession, feed: dict[str, Any]) -> list[Any] | None:
    """What ONNX Runtime computes, or None where it has no kernel for it after all."""
    arrays = {}
    for value in session.get_inputs():
        fed = feed[value.name]
        if not isinstance(fed, torch.Tensor) or fed.dtype == torch.bfloat16:
            return None
        arrays[value.name] = fed.numpy()
    try:
        return [tensor(each) for each in session.run(None, arrays)]
    except Exception:
        return None


def compare(ours: Any, theirs: Any, rtol: float, atol: float) -> None:
    """Equal types and shapes, and elements up to rounding."""
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for each, other in zip(ours, theirs, strict=True):
            compare(each, other, rtol, atol)
        return
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    relative, absolute = ROUGH.get(ours.dtype, (rtol, max(atol, ABSOLUTE)))
    mine, other = ours.detach().double().numpy(), theirs.detach().double().numpy()
    size = np.abs(other[np.isfinite(other)]).max(initial=1)
    np.testing.assert_allclose(mine, other, rtol=relative, atol=absolute * size)
