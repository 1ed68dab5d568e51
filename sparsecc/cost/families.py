"""Families of kernels whose times behave alike: each has a correction of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sparsecc.cost import roofline
from sparsecc.cost.roofline import Work
from sparsecc.formats.blocks import Block
from sparsecc.targets import Target

Family = Literal[
    "conv",
    "conv-code",
    "depthwise",
    "matmul",
    "matmul-code",
    "matvec",
    "onnxruntime-conv",
    "onnxruntime-depthwise",
    "onnxruntime-matmul",
    "onnxruntime-matvec",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
STEP_MS = 0.0005
"""What a step of a region costs by itself, ms."""
DENSE: Block = (0, 0)
"""Stands for the block of a layer that ONNX Runtime runs."""


@dataclass(frozen=True)
class Call:
    """A layer and the kernel that runs it.

    Attributes:
        work: The layer.
        block: Rows and columns of a stored block; :data:`DENSE` where ONNX Runtime runs it.
        blocks: How many are stored.
    """

    work: Work
    block: Block
    blocks: int

    @property
    def is_dense(self) -> bool:
        """Whether ONNX Runtime runs it."""
        return self.block == DENSE


def family_of(call: Call, target: Target) -> Family:
    """The family of a call's kernel on a target."""
    work = call.work
    few = not work.is_conv and work.points <= roofline.FEW_POINTS
    depthwise = work.is_conv and work.groups > 1 and work.groups == work.rows
    if call.is_dense:
        if depthwise:
            return "onnxruntime-depthwise"
        if work.is_conv:
            return "onnxruntime-conv"
        return "onnxruntime-matvec" if few else "onnxruntime-matmul"
    if depthwise:
        return "depthwise"
    points = None if work.is_conv else work.points
    code = roofline.generates(call.block, work.groups, points, target)
    if work.is_conv:
        return "conv-code" if code else "conv"
    if few:
        return "matvec"
    return "matmul-code" if code else "matmul"


def bare_ms(call: Call, target: Target) -> float:
    """The roofline's time of a call, in a region or in ONNX Runtime, ms."""
    if call.is_dense:
        return roofline.dense_ms(call.work, target)
    return roofline.sparse_ms(call.work, call.block, call.blocks, target, beside=True)


def base_ms(call: Call, target: Target) -> float:
    """The time that corrections are relative to, ms: never next to nothing."""
    return bare_ms(call, target) + (0.0 if call.is_dense else STEP_MS)
