"""Models that run with the execution provider, as tests make them, and what it takes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from sparsecc.backends.onnxruntime.ep import NAME
from sparsecc.backends.onnxruntime.run import session_options
from sparsecc.formats.patterns import Pattern, mask_from_scores
from tests import small

Array = NDArray[np.float32]

TOLERANCE = 2e-5
SIDE = 14
CHANNELS = 32


def open_with_provider(model: bytes | Path, threads: int = 1) -> ort.InferenceSession:
    devices = [device for device in ort.get_ep_devices() if device.ep_name == NAME]
    options = session_options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_provider_for_devices(devices, {})
    return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options)


def fused(session: ort.InferenceSession) -> list[list[str]]:
    """The ops of each fused node, sorted, in the order of their names."""
    groups = session.get_provider_graph_assignment_info()
    ours = [group for group in groups if group.ep_name == NAME]
    return sorted(sorted(node.op_type for node in group.get_nodes()) for group in ours)


def claimed_names(session: ort.InferenceSession, *op_types: str) -> set[str]:
    groups = session.get_provider_graph_assignment_info()
    nodes = [n for group in groups if group.ep_name == NAME for n in group.get_nodes()]
    return {node.name for node in nodes if node.op_type in op_types}


def check(model: bytes | Path, feeds: Mapping[str, Array]) -> ort.InferenceSession:
    """The session with the provider, whose outputs are those of the CPU."""
    source = model if isinstance(model, bytes) else str(model)
    cpu = ort.InferenceSession(source, session_options(1), providers=["CPUExecutionProvider"])
    session = open_with_provider(model)
    wanted, found = cpu.run(None, feeds), session.run(None, feeds)
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=0, atol=TOLERANCE * max(1, np.abs(a).max(initial=0)))
    return session


def pruned(
    shape: Sequence[int], pattern: str = "4x1", sparsity: float = 0.9, seed: int = 0
) -> Array:
    """A weight of zeros in a pattern along the first axis."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1 / np.prod(shape[1:]) ** 0.5, (shape[0], int(np.prod(shape[1:]))))
    mask = mask_from_scores(np.abs(weight), Pattern.parse(pattern), sparsity)
    return (weight * mask).reshape(shape).astype(np.float32)


def image(batch: int = 1, channels: int = CHANNELS, side: int = SIDE) -> Array:
    shape = (batch, channels, side, side)
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


def conv_model(
    tail: Sequence[onnx.NodeProto] = (),
    inputs: small.Shapes | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 17,
    batch: int | str | None = 1,
    **attributes: Any,
) -> bytes:
    """``x`` → sparse Conv named ``layer`` → ``c`` → `tail` → ``y``."""
    conv = helper.make_node("Conv", ["x", "w", "b"], ["c"], "layer", **attributes)
    params = {"w": pruned((64, CHANNELS, 1, 1)), **(weights or {})}
    params["b"] = np.linspace(-1, 1, len(params["w"]), dtype=np.float32)
    ins = {"x": [batch, CHANNELS, SIDE, SIDE], **(inputs or {})}
    if not tail:
        conv.output[0] = "y"
    model = small.model([conv, *tail], ins, {"y": ()}, params, opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model.SerializeToString()
