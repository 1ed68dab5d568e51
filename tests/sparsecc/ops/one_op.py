"""Models of one op alone, for cases that are drawn: arrays by name of input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from sparsecc import ops

Arrays = Mapping[str, np.ndarray]


def feeds_of(arrays: Arrays) -> dict[str, np.ndarray]:
    """Numbers of a case, which are float64, as a model takes them."""
    return {
        name: array.astype(np.float32) if array.dtype == np.float64 else array
        for name, array in arrays.items()
    }


def model_of(node: Any, feeds: Arrays, y: Any, opset: int, fixed: Sequence[str]) -> Any:
    """A model of a node that reads the feeds in order; the inputs named are initializers."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(each.dtype) for name, each in feeds.items()}
    given = [
        helper.make_tensor_value_info(name, kinds[name], array.shape)
        for name, array in feeds.items()
        if name not in fixed
    ]
    constants = [numpy_helper.from_array(feeds[name], name) for name in fixed if name in feeds]
    return helper.make_model(
        helper.make_graph([node], "case", given, [y], constants),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)],
        functions=[ops.function(node.op_type, opset)],
        ir_version=8,
    )
