"""Convolutions, poolings, and images of another size."""

from __future__ import annotations

import numpy as np

from tests.backends.tvm.cases.case import IMAGE, Case, normal, one


def windows() -> list[Case]:
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
            "gridsample",
            [one("GridSample", "x", "y")],
            {"x": ("float32", (2, 3, 5, 6)), "y": ("float32", (2, 4, 4, 2))},
            {},
            -1,
            1,
        ),
    ]
