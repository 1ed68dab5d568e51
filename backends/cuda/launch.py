"""A kernel of the table run on a GPU, compiled at its first launch there."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from sparsecc.backends.cuda.arguments import checked
from sparsecc.backends.cuda.driver import start
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.load import function


def arch_of(device: Any) -> Arch:
    """Architecture of a torch device."""
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def launch(kernel: Kernel, grid: Sequence[int], arguments: Mapping[str, Any]) -> Any:
    """Start a kernel on the current stream of the device that its tensors are on.

    Args:
        kernel: A row of the table.
        grid: Programs along each of up to three axes; nothing is started where one is 0.
        arguments: By name: tensors and numbers.

    Returns:
        What Triton compiled; None for CUDA C++, or if nothing is started.

    Raises:
        TargetError: The kernel is not built for this device.
        BackendError: Triton or nvcc is missing, or arguments do not fit a row in CUDA C++.
    """
    import torch

    device = next(each.device for each in arguments.values() if isinstance(each, torch.Tensor))
    arch = arch_of(device)
    how = kernel.launch(arch)
    if not all(grid):
        return None
    with torch.cuda.device(device):
        if kernel.language == "cuda":
            _start(kernel, arch, device, grid, arguments)
            return None
        return function(kernel.module, kernel.function)[tuple(grid)](
            **arguments,
            **kernel.constants_on(arch),
            num_warps=how.warps,
            num_stages=how.stages,
            enable_fp_fusion=True,
        )


def _start(
    kernel: Kernel, arch: Arch, device: Any, grid: Sequence[int], arguments: Mapping[str, Any]
) -> None:
    import torch

    values = [
        ctypes.c_void_p(each.data_ptr()) if isinstance(each, torch.Tensor) else each
        for each in checked(kernel, arguments).values()
    ]
    stream = torch.cuda.current_stream(device).cuda_stream
    start(kernel, arch, torch.cuda.current_device(), grid, values, stream)
