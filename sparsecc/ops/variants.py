"""Names of op variants: ``<Base>[_add][_<activation>]``, such as ``SparseConv_add_relu``.

A variant is a name, not an attribute or an overload, because ONNX Runtime up to 1.20 finds the
portable body of an op by its name alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.ops.activations import ACTIVATIONS

DOMAIN = "sparsecc"
VERSION = 1
REGION = "Region"
"""Starts the op types of regions: ``Region0``, ``Region1``, ..."""

BASES = ("SparseConv", "SparseMatMul")


@dataclass(frozen=True)
class Variant:
    """What an op type says: the base op, whether a residual is added, and the activation."""

    base: str
    residual: bool = False
    activation: str = "none"

    @property
    def op_type(self) -> str:
        """The ONNX op type of this variant."""
        add = "_add" if self.residual else ""
        activation = "" if self.activation == "none" else f"_{self.activation}"
        return f"{self.base}{add}{activation}"


VARIANTS: dict[str, Variant] = {
    variant.op_type: variant
    for base in BASES
    for residual in (False, True)
    for activation in ACTIVATIONS
    for variant in (Variant(base, residual, activation.name),)
}
"""Every op type of the domain, in the order of the C tables."""


def variant(base: str, residual: bool = False, activation: str = "none") -> str:
    """The op type for a base op with an optional residual and activation."""
    return Variant(base, residual, activation).op_type


def parse(op_type: str) -> Variant:
    """The variant an op type of the domain stands for.

    Raises:
        KeyError: The domain has no such op.
    """
    return VARIANTS[op_type]
