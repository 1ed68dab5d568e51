"""The body of AttentionBlocks in standard ops."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

from sparsecc.ops.attention_parts import counted, given, scalar, shared_heads
from sparsecc.ops.attention_search import PARTS, RECALL
from sparsecc.ops.packed import constants

ATTRIBUTES = {
    "scale": OpSchema.AttrType.FLOAT,
    "full": OpSchema.AttrType.INT,
    "searches": OpSchema.AttrType.INTS,
    "sparsity": OpSchema.AttrType.FLOAT,
    "words": OpSchema.AttrType.INTS,
}
_SIDES = ("rows", "columns")
_GRID = ("grid_heads", "down", "across", *_SIDES)
_IN_BLOCKS = ("grid_heads", "down", "rows", "across", "columns")


def _number(name: str, source: str, at: int) -> list[onnx.NodeProto]:
    """One number of a vector, as a scalar."""
    place = scalar(f"{name}_at", np.int64(at))
    return [place, helper.make_node("Gather", [source, f"{name}_at"], [name])]


def _masses() -> list[onnx.NodeProto]:
    """The mass of each block: W [H, down, across]."""
    node = helper.make_node
    return [
        node("Mul", ["Q", "scale"], ["Q_scaled"]),
        node("Transpose", ["K_each"], ["K_turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["Q_scaled", "K_turned"], ["scores"]),
        node("Softmax", ["scores"], ["shares_each"], axis=-1),
        node("ReduceSum", ["shares_each", "at0"], ["shares"], keepdims=0),
        node("Mul", ["down", "rows"], ["whole_rows"]),
        node("Mul", ["across", "columns"], ["whole_columns"]),
        node("Sub", ["whole_rows", "L"], ["rows_beyond"]),
        node("Sub", ["whole_columns", "S"], ["columns_beyond"]),
        *(node("Unsqueeze", [f"{name}_beyond", "at0"], [f"{name}_pad"]) for name in _SIDES),
        *constants(no_pads=[0, 0, 0, 0]),
        node("Concat", ["no_pads", "rows_pad", "columns_pad"], ["pads"], axis=0),
        node("Pad", ["shares", "pads"], ["padded"]),
        *(node("Unsqueeze", [name, "at0"], [f"{name}_one"]) for name in _GRID),
        node("Concat", [f"{name}_one" for name in _IN_BLOCKS], ["in_blocks"], axis=0),
        node("Reshape", ["padded", "in_blocks"], ["cut"]),
        *constants(of_block=[2, 4]),
        node("ReduceSum", ["cut", "of_block"], ["sums"], keepdims=0),
        scalar("no_mass", np.float32(0)),
        node("Greater", ["sums", "no_mass"], ["has_mass"]),
        node("Where", ["has_mass", "sums", "no_mass"], ["W"]),
    ]


def _words() -> list[onnx.NodeProto]:
    """Which rows and columns of blocks hold words: down_words, across_words; always [down, across].

    How many columns hold none: free.
    """
    node, nodes = helper.make_node, list[onnx.NodeProto]()
    for axis, block, size in (("down", "rows", "L"), ("across", "columns", "S")):
        name = f"{axis}_{{}}".format
        nodes += [
            node("Range", ["zero", axis, "one"], [name("blocks")]),
            node("Mul", [name("blocks"), block], [name("starts")]),
            node("Add", [name("starts"), block], [name("full_ends")]),
            node("Min", [name("full_ends"), size], [name("ends")]),
            node("Sub", [size, "behind"], [name("last")]),
            node("Less", [name("starts"), "before"], [name("first_words")]),
            node("Greater", [name("ends"), name("last")], [name("last_words")]),
            node("Or", [name("first_words"), name("last_words")], [name("words")]),
        ]
    return [
        *nodes,
        node("Unsqueeze", ["down_words", "at1"], ["down_words_down"]),
        node("Or", ["down_words_down", "across_words"], ["always"]),
        node("Not", ["across_words"], ["across_free"]),
        node("Cast", ["across_free"], ["free_ones"], to=TensorProto.INT64),
        node("ReduceSum", ["free_ones", "at0"], ["free"], keepdims=0),
    ]


def _ranks() -> list[onnx.NodeProto]:
    """The place of each block among those of its row by mass, words last: rank."""
    node = helper.make_node
    return [
        scalar("least_mass", np.float32(-1)),
        node("Where", ["across_words", "least_mass", "W"], ["free_mass"]),
        node("TopK", ["free_mass", "across_one"], ["by_mass", "order"], axis=-1),
        node("Shape", ["order"], ["order_shape"]),
        node("Expand", ["across_blocks", "order_shape"], ["places"]),
        node("ScatterElements", ["order", "order", "places"], ["rank"], axis=2),
    ]


def _counts() -> list[onnx.NodeProto]:
    """How many blocks a row of a head keeps: few, most, many."""
    node, double = helper.make_node, np.float64
    numbers = {"whole": 1.0, "half": 0.5}
    nodes = [
        *(scalar(name, double(value)) for name, value in numbers.items()),
        node("Cast", ["sparsity"], ["sparsity_most"], to=TensorProto.DOUBLE),
        node("Sub", ["whole", "sparsity_most"], ["density"]),
        node("Mul", ["density", "half"], ["half_density"]),
        node("Min", ["half_density", "sparsity_most"], ["apart"]),
        node("Add", ["sparsity_most", "apart"], ["sparsity_few"]),
        node("Sub", ["sparsity_most", "apart"], ["sparsity_many"]),
        node("Cast", ["free"], ["free_double"], to=TensorProto.DOUBLE),
    ]
    for name in ("few", "most", "many"):
        nodes += [
            node("Sub", ["whole", f"sparsity_{name}"], [f"density_{name}"]),
            node("Mul", [f"density_{name}", "free_double"], [f"blocks_{name}"]),
            node("Add", [f"blocks_{name}", "half"], [f"rounded_{name}"]),
            node("Cast", [f"rounded_{name}"], [f"count_{name}"], to=TensorProto.INT64),
            node("Max", [f"count_{name}", "one"], [name]),
        ]
    return nodes


def _heads() -> list[onnx.NodeProto]:
    """The number of blocks that each head keeps in a row: k [H, 1, 1]."""
    node = helper.make_node
    return [
        node("Less", ["rank", "most"], ["first"]),
        node("Or", ["first", "always"], ["kept_first"]),
        node("Where", ["kept_first", "W", "no_mass"], ["held_each"]),
        node("Cast", ["held_each"], ["held_double"], to=TensorProto.DOUBLE),
        *constants(in_head=[1, 2], rows_of=[0, 2]),
        node("ReduceSum", ["held_double", "in_head"], ["held"], keepdims=0),
        node("Gather", ["Q_shape", "rows_of"], ["batch_and_rows"]),
        node("ReduceProd", ["batch_and_rows"], ["rows_of_all"], keepdims=0),
        node("Max", ["rows_of_all", "one"], ["some_rows"]),
        node("Cast", ["some_rows"], ["mass_of_all"], to=TensorProto.DOUBLE),
        scalar("parts", np.float64(PARTS)),
        node("Mul", ["held", "parts"], ["held_parts"]),
        node("Div", ["held_parts", "mass_of_all"], ["held_share"]),
        node("Add", ["held_share", "half"], ["held_rounded"]),
        node("Cast", ["held_rounded"], ["recall"], to=TensorProto.INT64),
        scalar("limit", np.int64(RECALL)),
        node("Greater", ["recall", "limit"], ["enough"]),
        node("Cast", ["enough"], ["enough_ones"], to=TensorProto.INT64),
        node("ReduceSum", ["enough_ones", "at0"], ["enough_heads"], keepdims=0),
        scalar("two", np.int64(2)),
        node("Div", ["H", "two"], ["half_heads"]),
        node("Min", ["enough_heads", "half_heads"], ["moved"]),
        node("Shape", ["recall"], ["all_heads"]),
        node("TopK", ["recall", "all_heads"], ["by_recall", "heads_by_recall"], axis=0),
        node("ScatterElements", ["heads_by_recall", "heads_by_recall", "heads"], ["place"]),
        node("Sub", ["H", "moved"], ["worst_from"]),
        node("Less", ["place", "moved"], ["is_best"]),
        node("Less", ["place", "worst_from"], ["is_no_worst"]),
        node("Where", ["is_no_worst", "most", "many"], ["k_of_rest"]),
        node("Where", ["is_best", "few", "k_of_rest"], ["k_flat"]),
        node("Unsqueeze", ["k_flat", "in_head"], ["k"]),
    ]


def _positions() -> list[onnx.NodeProto]:
    """The index of what is kept, -1 behind: found."""
    node = helper.make_node
    return [
        node("Less", ["rank", "k"], ["chosen"]),
        node("Or", ["chosen", "always"], ["kept"]),
        node("Reshape", ["kept", "last"], ["kept_flat"]),
        node("NonZero", ["kept_flat"], ["positions_row"]),
        node("Reshape", ["positions_row", "last"], ["positions"]),
        node("Shape", ["positions"], ["count"]),
        node("Sub", ["blocks_one", "count"], ["missing"]),
        node("Expand", ["last", "missing"], ["behind_positions"]),
        node("Concat", ["positions", "behind_positions"], ["found64"], axis=0),
        node("Cast", ["found64"], ["found"], to=TensorProto.INT32),
    ]


def _kept_on() -> list[onnx.NodeProto]:
    """Every block at first, and later the index that came in: kept_on."""
    node = helper.make_node
    return [
        node("Range", ["zero", "blocks", "one"], ["every64"]),
        node("Cast", ["every64"], ["every"], to=TensorProto.INT32),
        node("Where", ["is_early", "every", "index"], ["kept_on"]),
    ]


def _branch(name: str, nodes: list[onnx.NodeProto], result: str) -> onnx.GraphProto:
    info = helper.make_tensor_value_info(result, TensorProto.INT32, ["blocks"])
    return helper.make_graph(nodes, name, [], [info])


def body() -> list[onnx.NodeProto]:
    """Standard ops from the inputs to ``Y``; only a step that searches computes the scores."""
    node = helper.make_node
    search = [*_masses(), *_words(), *_ranks(), *_counts(), *_heads(), *_positions()]
    none = numpy_helper.from_array(np.array([-1], np.int32))
    return [
        *counted(),
        *shared_heads("K"),
        *(given(name, kind) for name, kind in ATTRIBUTES.items()),
        *(each for at, name in enumerate(_GRID) for each in _number(name, "grid", at)),
        *_number("before", "words", 0),
        *_number("behind", "words", 1),
        node("Slice", ["grid", "at0", "at3"], ["blocks_shape"]),
        node("ReduceProd", ["blocks_shape"], ["blocks"], keepdims=0),
        node("Unsqueeze", ["blocks", "at0"], ["blocks_one"]),
        node("Less", ["step", "full"], ["is_early"]),
        node("Not", ["is_early"], ["is_late"]),
        node("Slice", ["index", "at0", "at1"], ["first_position"]),
        node("Constant", [], ["none"], value=none),
        node("Equal", ["first_position", "none"], ["has_none"]),
        node("And", ["is_late", "has_none"], ["must_search"]),
        node("Equal", ["searches", "step"], ["is_search"]),
        node("Cast", ["is_search"], ["search_ones"], to=TensorProto.INT64),
        node("ReduceSum", ["search_ones", "at0"], ["search_count"], keepdims=1),
        node("Greater", ["search_count", "zero"], ["shall_search"]),
        node("Or", ["must_search", "shall_search"], ["searching"]),
        node(
            "If",
            ["searching"],
            ["Y"],
            then_branch=_branch("search", search, "found"),
            else_branch=_branch("keep_on", _kept_on(), "kept_on"),
        ),
    ]
