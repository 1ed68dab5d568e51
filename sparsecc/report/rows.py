"""One row per layer: what the report, ``inspect`` and the plan say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Self

import pydantic

from sparsecc.errors import ArtifactError

DENSE_KERNEL, TVM_KERNEL, DENSE_MATMUL = "onnxruntime", "tvm", "matmul-dense"
"""What runs a layer that the library does not."""
WHOLE_KERNELS = frozenset({DENSE_KERNEL, TVM_KERNEL, "conv-dense", "conv-depthwise", DENSE_MATMUL})
"""What multiplies by whole weights: a runtime, generated code, kernels of the library."""

Amount = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class LayerRow:
    """What sparsecc knows and decided about one layer.

    Attributes:
        name: Layer name of the user's model.
        op: Op type of its node in the model at hand.
        shape: Weight as ``(R, K)``, or None for an op without a matrix weight.
        macs: Multiply-adds of one run at the static shape (dynamic dimensions count as 1).
        density: Share of weights that are not zero.
        pattern: Zero pattern detected in (or packed from) the weight, such as ``4x1`` or ``dense``.
        eligible: Whether the layer may run sparse at all.
        why: Why it stays dense, or why sparse was chosen.
        kernel: Kernel that runs it: a kernel-table name, or who runs it where no kernel of the
            library does, ``onnxruntime`` or ``tvm``.
        est_ms: Estimated time of the chosen kernel, one thread, ms.
        dense_ms: Estimated time of the layer dense, as it came in, one thread, ms.
        spread: Relative error of ``est_ms``, one standard deviation.
        flops: Floating-point operations of one run as chosen, at the sizes of the estimate.
        moved_bytes: Bytes of weights and activations that one run reads and writes, likewise.
        structure: The factors that took the weight's place, such as ``rank:64``; else "".
    """

    name: str
    op: str
    shape: tuple[int, int] | None
    macs: Count
    density: Annotated[float, pydantic.Field(ge=0, le=1)]
    pattern: str
    eligible: bool
    why: str
    kernel: str
    est_ms: Amount
    dense_ms: Amount
    spread: Amount = 0.0
    flops: Amount = 0.0
    moved_bytes: Count = 0
    structure: str = ""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(extra="forbid")

    def to_json(self) -> dict[str, object]:
        """Plain data, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The row that :meth:`to_json` wrote.

        Raises:
            ArtifactError: A field is missing, unknown or wrong.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_python(data)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(
                f"the row of a layer is malformed: field {where!r}: {first['msg']}",
                fix="compile the model again",
            ) from error

    @property
    def is_sparse(self) -> bool:
        """Whether a kernel that skips zeros runs it."""
        whole = self.kernel in WHOLE_KERNELS or self.pattern == "dense"
        return not whole and not self.structure

    @property
    def stays_dense(self) -> bool:
        """Whether it multiplies by its whole weight."""
        return not (self.is_sparse or self.structure)
