"""Arguments of a kernel in CUDA C++, checked against its row, since a call checks nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from sparsecc.backends.cuda.kernel import Kernel
from sparsecc.errors import BackendError

ALIGNMENT = 16
"""Bytes that the address of every tensor is a multiple of."""
_ELEMENTS: Mapping[str, str] = {
    "*fp16": "float16",
    "*bf16": "bfloat16",
    "*fp32": "float32",
    "*i32": "int32",
}
NUMBERS: Mapping[str, type[Any]] = {
    "i32": ctypes.c_int32,
    "fp32": ctypes.c_float,
}


def checked(kernel: Kernel, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the order of the row: tensors, and numbers of ctypes.

    Raises:
        BackendError: Another element type than the row's, or a tensor with gaps or not aligned.
    """
    if set(arguments) != set(kernel.arguments):
        raise AssertionError(f"{kernel.name} takes {', '.join(kernel.arguments)}")
    return {
        name: _one(kernel, name, kind, arguments[name]) for name, kind in kernel.arguments.items()
    }


def _one(kernel: Kernel, name: str, kind: str, value: Any) -> Any:
    if kind in NUMBERS:
        return NUMBERS[kind](value)
    wanted = _ELEMENTS[kind]
    if str(value.dtype) != f"torch.{wanted}":
        raise BackendError(
            f"{kernel.name} wants {wanted} for {name}, which is {value.dtype}",
            fix=f"convert it with .to(torch.{wanted})",
        )
    if not value.is_contiguous() or value.data_ptr() % ALIGNMENT:
        raise BackendError(
            f"{kernel.name} wants {name} without gaps, at a multiple of {ALIGNMENT} bytes",
            fix="give a copy: .contiguous() or .clone()",
        )
    return value
