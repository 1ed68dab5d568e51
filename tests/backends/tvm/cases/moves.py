"""Ops that move elements and compute nothing."""

from __future__ import annotations

import numpy as np

from tests.backends.tvm.cases.case import IMAGE, Case, F, one


def moves() -> list[Case]:
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
