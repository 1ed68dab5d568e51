"""What every sparse op has in common: the packed weight among its inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from sparsecc.formats.blocks import BlockWeight

PACKED_INPUTS = ("values", "index", "grid", "shape")
"""Names of the packed weight's inputs, in order; they follow the activation input ``X``."""

_ENDLESS = 2**31 - 1


def constants(**named: list[int]) -> list[onnx.NodeProto]:
    """Constant nodes that hold int64 vectors under the given names."""
    return [
        helper.make_node(
            "Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.int64))
        )
        for name, value in named.items()
    ]


def decode_body(output: str, dtype: type[np.generic] = np.float32) -> list[onnx.NodeProto]:
    """Standard ops (opset ≥ 11) that turn the packed inputs into the dense weight of ``shape``.

    All their inputs are initializers, so a runtime folds them away when it loads the model.
    ``dtype`` is that of ``values``.
    """
    node = helper.make_node
    zero = numpy_helper.from_array(np.zeros(1, dtype))
    return [
        *constants(at0=[0], at1=[1], at2=[2], at3=[3], end=[_ENDLESS]),
        *constants(rest=[-1], columns=[1], one_column=[-1, 1]),
        node("Slice", ["grid", "at0", "at1"], ["Rb"]),
        node("Slice", ["grid", "at1", "at2"], ["Kb"]),
        node("Slice", ["grid", "at2", "at3"], ["r"]),
        node("Mul", ["Rb", "Kb"], ["cells"]),
        node("Shape", ["values"], ["values_shape"]),
        node("Slice", ["values_shape", "at1", "at2"], ["cell_size"]),
        node("Concat", ["cells", "cell_size"], ["cells_shape"], axis=0),
        node("ConstantOfShape", ["cells_shape"], ["no_cells"], value=zero),
        node("Cast", ["index"], ["index64"], to=TensorProto.INT64),
        node("Reshape", ["index64", "one_column"], ["positions"]),
        node("ScatterND", ["no_cells", "positions", "values"], ["flat_cells"]),
        node("Reshape", ["flat_cells", "grid"], ["cells_by_row"]),
        node("Transpose", ["cells_by_row"], ["rows_of_cells"], perm=[0, 2, 1, 3]),
        node("Mul", ["Rb", "r"], ["padded_rows"]),
        node("Concat", ["padded_rows", "rest"], ["padded_shape"], axis=0),
        node("Reshape", ["rows_of_cells", "padded_shape"], ["padded"]),
        node("Slice", ["shape", "at0", "at1"], ["R"]),
        node("Slice", ["shape", "at1", "end"], ["inner_shape"]),
        node("ReduceProd", ["inner_shape"], ["K"], keepdims=1),
        node("Slice", ["padded", "at0", "R", "at0"], ["all_columns"]),
        node("Slice", ["all_columns", "at0", "K", "columns"], ["matrix"]),
        node("Reshape", ["matrix", "shape"], [output]),
    ]


def packed_arrays(packed: BlockWeight) -> dict[str, np.ndarray]:
    """The arrays of a packed weight by input name, in the order of the inputs."""
    return {
        "values": packed.values,
        "index": packed.index,
        "grid": np.array(packed.grid, np.int64),
        "shape": np.array(packed.shape, np.int64),
    }


def initializer(name: str, array: np.ndarray) -> ir.Value:
    """An initializer value with its tensor, type and shape."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )


def read_packed(node: ir.Node, first: int = 1) -> BlockWeight:
    """The packed weight of a sparse node.

    Args:
        node: The node.
        first: Which of its inputs the weight begins with.

    Raises:
        ValueError: A packed input is not an initializer.
    """
    arrays = []
    for position, name in enumerate(PACKED_INPUTS, start=first):
        value = node.inputs[position]
        if value is None or value.const_value is None:
            raise ValueError(f"input {name!r} of {node.op_type} {node.name!r} is not constant")
        arrays.append(value.const_value.numpy())
    values, index, grid, shape = arrays
    rb, kb, r, c = (int(n) for n in grid)
    return BlockWeight(values, index, (rb, kb, r, c), tuple(int(n) for n in shape))
