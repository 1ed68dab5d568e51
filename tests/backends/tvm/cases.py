"""Small graphs of one op each, or a few, with what ONNX Runtime is asked beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
SIZES = {"b": 2, "n": 5, "s": 7, "h": 9, "w": 6}
"""What open dimensions are in the runs."""
OPSET = 20


@dataclass(frozen=True)
class Case:
    """Nodes over inputs.

    Attributes:
        name: Of the case, and what its values' names begin with.
        nodes: Op type, inputs, outputs and attributes of each.
        inputs: Type and dimensions, open ones by name.
        constants: Initializers.
        low: Smallest number in the inputs.
        high: Largest.
        outputs: Names.
    """

    name: str
    nodes: Sequence[tuple[Any, ...]]
    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    constants: Mapping[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    outputs: tuple[str, ...] = ("o",)

    def feed(self, seed: int = 0) -> dict[str, Array]:
        """Numbers for its inputs, by the names they have in the graph."""
        rng = np.random.default_rng(seed)
        return {
            f"{self.name}.{name}": self._numbers(rng, dtype, dims)
            for name, (dtype, dims) in self.inputs.items()
        }

    def _numbers(self, rng: np.random.Generator, dtype: str, dims: Sequence[int | str]) -> Array:
        shape = [SIZES[dim] if isinstance(dim, str) else dim for dim in dims]
        if dtype == "bool":
            return rng.random(shape) < 0.5
        if dtype.startswith("float"):
            return rng.uniform(self.low, self.high, shape).astype(dtype)
        return rng.integers(int(self.low), int(self.high) + 1, shape).astype(dtype)


def one(op: str, *inputs: str, **attributes: Any) -> tuple[Any, ...]:
    return (op, list(inputs), ["o"], attributes)


F = ("float32", ("b", "n"))
IMAGE = ("float32", ("b", 3, "h", "w"))
UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "LogSoftmax",
    "Softmax",
    "Identity",
    "IsNaN",
]
RANGES = {
    "Acos": (-1, 1),
    "Asin": (-1, 1),
    "Atanh": (-0.9, 0.9),
    "Acosh": (1.01, 5),
    "Log": (0.1, 9),
    "Sqrt": (0, 9),
    "Exp": (-80, 80),
    "Erf": (-4, 4),
    "Tanh": (-9, 9),
    "Sigmoid": (-40, 40),
    "Sin": (-50, 50),
    "Cos": (-50, 50),
    "Softmax": (-30, 30),
    "Mish": (-9, 9),
}


def _unary() -> list[Case]:
    return [
        Case(op.lower(), [one(op, "x")], {"x": F}, {}, *RANGES.get(op, (-2, 2))) for op in UNARY
    ]


def _binary() -> list[Case]:
    two = {"x": ("float32", ("b", "n", 4)), "y": ("float32", ("n", 1))}
    whole = {"x": ("int64", ("b", "n")), "y": ("int64", ("n",))}
    arithmetic = [Case(op.lower(), [one(op, "x", "y")], two) for op in ("Add", "Sub", "Mul", "Div")]
    compared = [
        Case(op.lower(), [one(op, "x", "y")], whole)
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min")
    ]
    logic = {"x": ("bool", ("b", "n")), "y": ("bool", ("n",))}
    return [
        *arithmetic,
        *compared,
        *(Case(op.lower(), [one(op, "x", "y")], logic) for op in ("And", "Or", "Xor")),
        Case("not", [one("Not", "x")], {"x": logic["x"]}),
        Case("pow", [one("Pow", "x", "c")], {"x": F}, {"c": np.float32(1.7)}, 0.1, 3),
        Case("pow2", [one("Pow", "x", "c")], {"x": F}, {"c": np.float32(2)}),
        Case("mod", [one("Mod", "x", "c")], {"x": whole["x"]}, {"c": np.int64(3)}, -9, 9),
        Case("fmod", [one("Mod", "x", "c", fmod=1)], {"x": F}, {"c": np.float32(0.7)}),
        Case("prelu", [one("PRelu", "x", "c")], {"x": F}, {"c": np.float32([0.3])}),
        Case(
            "clip",
            [one("Clip", "x", "low", "high")],
            {"x": F},
            {"low": np.float32(-1), "high": np.float32(1)},
        ),
        Case("where", [one("Where", "x", "y", "z")], {"x": logic["x"], "y": F, "z": F}),
        Case("sum", [one("Sum", "x", "y", "z")], {"x": F, "y": F, "z": F}),
        Case("mean", [one("Mean", "x", "y")], {"x": F, "y": F}),
    ]


def _casts() -> list[Case]:
    kinds = {"float32": 1, "int32": 6, "int64": 7, "uint8": 2, "bool": 9}
    return [
        Case(f"cast_{a}_{b}", [one("Cast", "x", to=kinds[b])], {"x": (a, ("b", "n"))}, {}, 0, 4)
        for a in kinds
        for b in kinds
        if a != b
    ]


def _reductions() -> list[Case]:
    ops = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
    made = []
    for op in ops:
        low = 0.1 if op.startswith("Log") else -2
        for axes, keep in (([1], 0), ([-1], 1), ([0, 2], 1)):
            name = f"reduce_{op.lower()}_{len(axes)}{axes[0]}".replace("-", "m")
            node = one(f"Reduce{op}", "x", "axes", keepdims=keep)
            inputs = {"x": ("float32", ("b", "n", 6))}
            made.append(Case(name, [node], inputs, {"axes": np.int64(axes)}, low))
    return [
        *made,
        Case("argmax", [one("ArgMax", "x", axis=-1)], {"x": ("float32", ("b", "n", 12))}),
        Case(
            "argmax1", [one("ArgMax", "x", axis=1, keepdims=0)], {"x": ("float32", ("b", "n", 3))}
        ),
        Case("argmin", [one("ArgMin", "x", axis=0)], {"x": F}),
        Case("cumsum", [one("CumSum", "x", "c")], {"x": F}, {"c": np.int64(1)}),
    ]


def _moves() -> list[Case]:
    cube = {"x": ("float32", ("b", "n", 6))}
    return [
        Case("transpose", [one("Transpose", "x", perm=[2, 0, 1])], cube),
        Case("concat", [one("Concat", "x", "y", axis=1)], {"x": F, "y": ("float32", ("b", 3))}),
        Case(
            "concat_open", [one("Concat", "x", "y", axis=1)], {"x": F, "y": ("float32", ("b", "s"))}
        ),
        Case(
            "slice",
            [one("Slice", "x", "a", "e", "axes")],
            cube,
            {"a": np.int64([1]), "e": np.int64([-1]), "axes": np.int64([2])},
        ),
        Case(
            "slice_steps",
            [one("Slice", "x", "a", "e", "axes", "t")],
            cube,
            {"a": np.int64([5]), "e": np.int64([0]), "axes": np.int64([2]), "t": np.int64([-2])},
        ),
        Case(
            "slice_open",
            [one("Slice", "x", "a", "e", "axes")],
            cube,
            {"a": np.int64([1]), "e": np.int64([4]), "axes": np.int64([1])},
        ),
        Case(
            "first",
            [one("Slice", "x", "a", "e", "axes")],
            cube,
            {"a": np.int64([0]), "e": np.int64([1]), "axes": np.int64([1])},
        ),
        Case(
            "split",
            [("Split", ["x"], ["o", "p", "q"], {"axis": 2, "num_outputs": 3})],
            cube,
            outputs=("o", "q"),
        ),
        Case(
            "squeeze",
            [one("Squeeze", "x", "axes")],
            {"x": ("float32", ("b", 1, "n"))},
            {"axes": np.int64([1])},
        ),
        Case("unsqueeze", [one("Unsqueeze", "x", "axes")], {"x": F}, {"axes": np.int64([1, 3])}),
        Case("reshape", [one("Reshape", "x", "c")], cube, {"c": np.int64([0, -1, 2, 3])}),
        Case("flatten", [one("Flatten", "x", axis=1)], cube),
        Case(
            "expand",
            [one("Expand", "x", "c")],
            {"x": ("float32", (3, 1))},
            {"c": np.int64([2, 1, 6])},
        ),
        Case("tile", [one("Tile", "x", "c")], cube, {"c": np.int64([1, 2, 3])}),
        Case(
            "pad",
            [one("Pad", "x", "c", "v")],
            cube,
            {"c": np.int64([0, 1, 2, 0, 3, 4]), "v": np.float32(1.5)},
        ),
        Case(
            "pad_edge",
            [one("Pad", "x", "c", mode="edge")],
            {"x": IMAGE},
            {"c": np.int64([0, 0, 1, 2, 0, 0, 2, 1])},
        ),
        Case(
            "pad_reflect",
            [one("Pad", "x", "c", mode="reflect")],
            {"x": IMAGE},
            {"c": np.int64([0, 0, 1, 2, 0, 0, 2, 1])},
        ),
        Case("trilu", [one("Trilu", "x", upper=0)], {"x": ("float32", ("b", "n", "n"))}),
        Case(
            "gather",
            [one("Gather", "c", "x")],
            {"x": ("int64", ("b", "n"))},
            {"c": np.arange(40, dtype=np.float32).reshape(10, 4)},
            -10,
            9,
        ),
        Case("gather_axis", [one("Gather", "x", "c", axis=1)], cube, {"c": np.int64([2, 0, -1])}),
        Case("gather_one", [one("Gather", "x", "c", axis=1)], cube, {"c": np.int64(0)}),
        Case(
            "gather_elements",
            [one("GatherElements", "x", "c", axis=1)],
            {"x": ("float32", (2, 5))},
            {"c": np.int64([[0, 4, 1], [2, 2, 3]])},
        ),
        Case(
            "gather_nd",
            [one("GatherND", "x", "c")],
            {"x": ("float32", (3, 4, 5))},
            {"c": np.int64([[0, 1], [2, 3]])},
        ),
        Case(
            "scatter_elements",
            [one("ScatterElements", "x", "c", "y", axis=1)],
            {"x": ("float32", (2, 5)), "y": ("float32", (2, 2))},
            {"c": np.int64([[1, 3], [0, 4]])},
        ),
        Case(
            "scatter_nd",
            [one("ScatterND", "x", "c", "y")],
            {"x": ("float32", (4, 5)), "y": ("float32", (2, 5))},
            {"c": np.int64([[1], [3]])},
        ),
        Case(
            "onehot",
            [one("OneHot", "x", "d", "v")],
            {"x": ("int64", ("b", "n"))},
            {"d": np.int64(5), "v": np.float32([0, 1])},
            0,
            4,
        ),
        Case(
            "depth_to_space",
            [one("DepthToSpace", "x", blocksize=2)],
            {"x": ("float32", ("b", 8, 3, 4))},
        ),
        Case(
            "space_to_depth",
            [one("SpaceToDepth", "x", blocksize=2)],
            {"x": ("float32", ("b", 2, 4, 6))},
        ),
        Case(
            "einsum",
            [("Einsum", ["x", "y"], ["o"], {"equation": "bnk,bmk->bnm"})],
            {"x": ("float32", ("b", "n", 8)), "y": ("float32", ("b", "s", 8))},
        ),
        Case(
            "topk",
            [("TopK", ["x", "k"], ["o", "p"], {})],
            {"x": ("float32", ("b", 12))},
            {"k": np.int64([3])},
            outputs=("o", "p"),
        ),
    ]


def _windows() -> list[Case]:
    def normal(*shape: int) -> Array:
        return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)

    pool = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    return [
        Case(
            "conv",
            [one("Conv", "x", "c", "d", pads=[1, 1, 1, 1], strides=[2, 2])],
            {"x": IMAGE},
            {"c": normal(8, 3, 3, 3), "d": normal(8)},
        ),
        Case(
            "conv_groups",
            [one("Conv", "x", "c", group=2, pads=[0, 0, 0, 0])],
            {"x": ("float32", ("b", 4, "h", "w"))},
            {"c": normal(6, 2, 3, 3)},
        ),
        Case(
            "conv_depthwise",
            [one("Conv", "x", "c", group=4, pads=[1, 1, 1, 1])],
            {"x": ("float32", ("b", 4, "h", "w"))},
            {"c": normal(4, 1, 3, 3)},
        ),
        Case(
            "conv_dilated",
            [one("Conv", "x", "c", dilations=[2, 2])],
            {"x": IMAGE},
            {"c": normal(4, 3, 2, 2)},
        ),
        Case(
            "conv1d",
            [one("Conv", "x", "c", pads=[1, 1])],
            {"x": ("float32", ("b", 4, "s"))},
            {"c": normal(6, 4, 3)},
        ),
        Case(
            "conv3d",
            [one("Conv", "x", "c")],
            {"x": ("float32", ("b", 2, 4, 5, 6))},
            {"c": normal(3, 2, 2, 2, 2)},
        ),
        Case(
            "conv_transpose",
            [one("ConvTranspose", "x", "c", strides=[2, 2], pads=[1, 1, 1, 1])],
            {"x": IMAGE},
            {"c": normal(3, 5, 4, 4)},
        ),
        Case("maxpool", [one("MaxPool", "x", **pool)], {"x": IMAGE}),
        Case(
            "maxpool_ceil",
            [one("MaxPool", "x", ceil_mode=1, **pool)],
            {"x": ("float32", ("b", 3, 10, 7))},
        ),
        Case("averagepool", [one("AveragePool", "x", **pool)], {"x": IMAGE}),
        Case(
            "averagepool_pads", [one("AveragePool", "x", count_include_pad=1, **pool)], {"x": IMAGE}
        ),
        Case("globalaverage", [one("GlobalAveragePool", "x")], {"x": IMAGE}),
        Case("globalmax", [one("GlobalMaxPool", "x")], {"x": IMAGE}),
        Case(
            "resize_nearest",
            [
                one(
                    "Resize",
                    "x",
                    "",
                    "c",
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            ],
            {"x": IMAGE},
            {"c": np.float32([1, 1, 2, 2])},
        ),
        Case(
            "resize_linear",
            [one("Resize", "x", "", "c", mode="linear")],
            {"x": IMAGE},
            {"c": np.float32([1, 1, 2, 3])},
        ),
        Case(
            "resize_sizes",
            [
                one(
                    "Resize",
                    "x",
                    "",
                    "",
                    "c",
                    mode="linear",
                    coordinate_transformation_mode="align_corners",
                )
            ],
            {"x": ("float32", ("b", 3, 4, 5))},
            {"c": np.int64([2, 3, 7, 9])},
        ),
        Case(
            "resize_cubic",
            [one("Resize", "x", "", "c", mode="cubic")],
            {"x": ("float32", ("b", 3, 4, 5))},
            {"c": np.float32([1, 1, 2, 2])},
        ),
        Case(
            "batchnorm",
            [one("BatchNormalization", "x", "a", "c", "d", "e")],
            {"x": IMAGE},
            {"a": normal(3), "c": normal(3), "d": normal(3), "e": np.abs(normal(3)) + 1},
        ),
        Case(
            "instancenorm",
            [one("InstanceNormalization", "x", "a", "c")],
            {"x": IMAGE},
            {"a": normal(3), "c": normal(3)},
        ),
        Case(
            "layernorm",
            [one("LayerNormalization", "x", "a", "c")],
            {"x": ("float32", ("b", "n", 6))},
            {"a": normal(6), "c": normal(6)},
        ),
        Case("lrn", [one("LRN", "x", size=3)], {"x": ("float32", ("b", 5, 4, 4))}),
        Case(
            "gridsample",
            [one("GridSample", "x", "y")],
            {"x": ("float32", (2, 3, 5, 6)), "y": ("float32", (2, 4, 4, 2))},
            {},
            -1,
            1,
        ),
        Case(
            "gemm",
            [one("Gemm", "x", "c", "d", transB=1, alpha=0.5)],
            {"x": ("float32", ("b", 6))},
            {"c": normal(7, 6), "d": normal(7)},
        ),
        Case(
            "matmul",
            [one("MatMul", "x", "y")],
            {"x": ("float32", ("b", 2, "n", 8)), "y": ("float32", ("b", 2, 8, "s"))},
        ),
        Case(
            "matmul_weight",
            [one("MatMul", "x", "c")],
            {"x": ("float32", ("b", "n", 8))},
            {"c": normal(8, 20)},
        ),
        Case(
            "matmul_rows",
            [one("MatMul", "x", "y")],
            {"x": ("float32", (12, 16)), "y": ("float32", (16, 40))},
        ),
        Case(
            "matmul_turned",
            [("Transpose", ["y"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["o"], {})],
            {"x": ("float32", ("b", "n", 8)), "y": ("float32", ("b", "s", 8))},
        ),
    ]


def _several() -> list[Case]:
    ids = {"x": ("int64", ("b", "s")), "y": ("int64", ("b", "s"))}
    table = np.random.default_rng(3).standard_normal((20, 8)).astype(np.float32)
    return [
        Case(
            "embedding",
            [
                ("Gather", ["c", "x"], ["e"], {}),
                ("Shape", ["x"], ["t"], {}),
                ("Gather", ["t", "i"], ["l"], {}),
                ("Unsqueeze", ["l", "zero"], ["l1"], {}),
                ("Slice", ["positions", "zero", "l1", "one"], ["p"], {}),
                ("Gather", ["c", "p"], ["pe"], {}),
                ("Add", ["e", "pe"], ["o"], {}),
            ],
            ids,
            {
                "c": table,
                "i": np.int64(1),
                "zero": np.int64([0]),
                "one": np.int64([1]),
                "positions": np.arange(16)[None],
            },
            0,
            19,
        ),
        Case(
            "masked_mean",
            [
                ("Gather", ["c", "x"], ["e"], {}),
                ("Cast", ["y"], ["m"], {"to": 1}),
                ("Unsqueeze", ["m", "last"], ["m3"], {}),
                ("Mul", ["e", "m3"], ["em"], {}),
                ("ReduceSum", ["em", "one"], ["sum"], {"keepdims": 0}),
                ("ReduceSum", ["m3", "one"], ["count"], {"keepdims": 0}),
                ("Clip", ["count", "tiny"], ["count1"], {}),
                ("Div", ["sum", "count1"], ["o"], {}),
            ],
            ids,
            {"c": table, "last": np.int64([2]), "one": np.int64([1]), "tiny": np.float32(1e-9)},
            0,
            1,
        ),
        Case(
            "mask",
            [
                ("Unsqueeze", ["y", "axes"], ["m4"], {}),
                ("Cast", ["m4"], ["mf"], {"to": 1}),
                ("Sub", ["unit", "mf"], ["inverse"], {}),
                ("Mul", ["inverse", "low"], ["o"], {}),
            ],
            {"y": ids["y"]},
            {"axes": np.int64([1, 2]), "unit": np.float32(1), "low": np.float32(-3.4e38)},
            0,
            1,
        ),
        Case(
            "heads",
            [
                ("Shape", ["x"], ["t"], {"start": 0, "end": 2}),
                ("Concat", ["t", "heads"], ["sizes"], {"axis": 0}),
                ("Reshape", ["x", "sizes"], ["r"], {}),
                ("Transpose", ["r"], ["q"], {"perm": [0, 2, 1, 3]}),
                ("Transpose", ["r"], ["k"], {"perm": [0, 2, 3, 1]}),
                ("MatMul", ["q", "k"], ["scores"], {}),
                ("Mul", ["scores", "scale"], ["scaled"], {}),
                ("Softmax", ["scaled"], ["p"], {"axis": -1}),
                ("MatMul", ["p", "q"], ["mixed"], {}),
                ("Transpose", ["mixed"], ["back"], {"perm": [0, 2, 1, 3]}),
                ("Reshape", ["back", "joined"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "s", 12))},
            {"heads": np.int64([3, 4]), "scale": np.float32(0.5), "joined": np.int64([0, 0, 12])},
        ),
        Case(
            "range",
            [
                ("Shape", ["x"], ["t"], {}),
                ("Gather", ["t", "i"], ["n"], {}),
                ("Range", ["zero", "n", "one"], ["r"], {}),
                ("Cast", ["r"], ["f"], {"to": 1}),
                ("Mul", ["x", "f"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "n"))},
            {"i": np.int64(1), "zero": np.int64(0), "one": np.int64(1)},
        ),
        Case(
            "constant_of_shape",
            [
                ("Shape", ["x"], ["t"], {}),
                (
                    "ConstantOfShape",
                    ["t"],
                    ["ones"],
                    {"value": helper.make_tensor("v", 1, [1], [3.0])},
                ),
                ("Sub", ["ones", "x"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "n"))},
        ),
        Case(
            "expand_open",
            [
                ("Shape", ["x"], ["t"], {}),
                ("Expand", ["c", "t"], ["e"], {}),
                ("Add", ["e", "x"], ["o"], {}),
            ],
            {"x": ("float32", ("b", "n"))},
            {"c": np.float32([2.5])},
        ),
    ]


CASES: tuple[Case, ...] = (
    *_unary(),
    *_binary(),
    *_casts(),
    *_reductions(),
    *_moves(),
    *_windows(),
    *_several(),
)


def model_of(cases: Sequence[Case]) -> ir.Model:
    """One graph of all cases beside each other."""
    nodes, inputs, outputs, constants = [], [], [], []
    for case in cases:
        for at, (op, read, made, attributes) in enumerate(case.nodes):
            names = [f"{case.name}.{each}" if each else "" for each in read]
            ends = [f"{case.name}.{each}" for each in made]
            nodes.append(helper.make_node(op, names, ends, f"{case.name}/{at}", **attributes))
        for name, (dtype, dims) in case.inputs.items():
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            inputs.append(helper.make_tensor_value_info(f"{case.name}.{name}", kind, dims))
        for name, array in case.constants.items():
            constants.append(numpy_helper.from_array(np.asarray(array), f"{case.name}.{name}"))
        outputs += [onnx.ValueInfoProto(name=f"{case.name}.{name}") for name in case.outputs]
    graph = helper.make_graph(nodes, "cases", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return ir.serde.deserialize_model(proto)
