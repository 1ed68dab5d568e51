"""What a model computes in double precision: the reference of every artifact's numerics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


def outputs(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model whose weights, inputs and sums are all float64."""
    import torch

    from sparsecc.torch import Interpreter

    interpreter = Interpreter(model).double()
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in feeds.items()}
    wide = {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
    with torch.no_grad():
        made = interpreter(wide)
    return [made[name].numpy() for name in interpreter.outputs]
