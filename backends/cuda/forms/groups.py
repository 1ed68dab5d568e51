"""Groups of 16 or 32 inputs that are kept or not, as codes of four bits: GQSA.

A word holds scale, zero and place of a group. Where half of a weight is kept in groups of 16 that
makes 3 bits for each of its numbers, and in groups of 32 it is 2.5 bits; dense are 16. A row is one
piece, or two or four where it is long beside the others, so that warps have about as much to read.
Source: GQSA (arXiv 2412.17560), written from its description.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Form, Matrix, Packed, Product, check_dtype
from sparsecc.backends.cuda.forms.code_recipe import recipe_of
from sparsecc.backends.cuda.forms.codes import (
    MOST_PLACES,
    PACK,
    Coded,
    dequantized,
    mixed,
    parts_of,
    quantized,
    turns_of,
    unmixed,
    words_of,
)
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.cuda.rows.groups import GROUPS, LANES, SLOTS, STEP
from sparsecc.backends.cuda.steps import by_name
from sparsecc.errors import BackendError

WARPS = 4096
"""About what a large GPU holds at once. Not measured yet."""
UNEVEN = 1.5
"""A piece may be so much longer than its share of all packs by this many warps."""
_WORD_BYTES = 4
_FLAGS = 8
"""Bits for the groups of a tile."""
_OF_SLOTS, _OF_TILES = ("Starts", "Rows"), ("Firsts", "Places")
"""What says where codes belong: for few tokens, and for tiles."""


def pack(weight: Matrix, dtype: str) -> Packed:
    """Round the groups of a weight that are not zero to codes, and pack them.

    Groups have 16 inputs, or 32 where that stores no more.

    Args:
        weight: ``[rows, columns]``.
        dtype: Of X and Out.

    Raises:
        BackendError: Columns are no multiple of 16 or too many, or a number has no float16 scale.
    """
    check_dtype(dtype)
    rows, columns = weight.shape
    if columns % min(GROUPS) or columns > min(GROUPS) * MOST_PLACES:
        raise BackendError(
            f"a weight [{rows}, {columns}] has no whole groups of {min(GROUPS)} inputs, or more "
            f"than {MOST_PLACES} of them",
            fix=f"pad its inputs to a multiple of {min(GROUPS)}, or split the layer along them",
        )
    whole = [group for group in GROUPS if columns % group == 0]
    group = min(whole, key=lambda group: (_stored(weight, group), -group))
    return pack_codes(quantized(weight, group))


def _stored(weight: Matrix, group: int) -> int:
    """Bytes that groups of so many inputs store."""
    kept = (weight.reshape(len(weight), -1, group) != 0).any(2)
    return int(kept.sum()) * (group // 2 + _WORD_BYTES)


def pack_codes(coded: Coded) -> Packed:
    """Pack codes that are given; groups whose scale is 0 are not kept.

    Raises:
        BackendError: Of other groups than 16 or 32 inputs, too many of them or cut ones.
    """
    rows, groups, group = coded.codes.shape
    if group not in GROUPS or coded.columns % group or groups > MOST_PLACES:
        raise BackendError(
            f"a weight [{rows}, {coded.columns}] in groups of {group} inputs is not packed",
            fix=f"use at most {MOST_PLACES} whole groups of {' or '.join(map(str, GROUPS))} inputs",
        )
    each = PACK // group
    kept = coded.scales != 0
    row, place = np.nonzero(kept)
    counts = kept.sum(1)
    rank = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    slots, starts = _slots(-(-counts // each))
    firsts = _first_packs(slots, starts) * each
    at = firsts[row] + rank
    codes = np.zeros((starts[-1] * each, 4), f"u{group // 8}")
    codes[at] = mixed(coded.codes[kept], turns_of(at // each, group))
    words = np.zeros(len(codes), np.uint32)
    last = rank == counts[row] - 1  # a pack that it leaves half full reads its inputs twice
    nothing = np.zeros(last.sum(), np.float16), np.zeros(last.sum(), np.uint8)
    words[at[last] // each * each + each - 1] = words_of(*nothing, place[last])
    words[at] = words_of(coded.scales[kept], coded.zeros[kept], place)
    turned = np.ascontiguousarray(codes.reshape(-1, each, 4).swapaxes(1, 2))
    arrays = {
        "Codes": turned.view(np.int32).reshape(-1, 4),
        "Words": words.view(np.int32),
        "Starts": starts,
        "Rows": slots,
        "Firsts": firsts.astype(np.int32),
        "Places": _places(kept, STEP // group),
    }
    return Packed("groups", rows, coded.columns, arrays, {"group": group, "slots": len(slots)})


def _slots(lengths: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row of each slot, or -1, and where its packs start, of rows of so many packs.

    Slots of a program have about the same length, and the longest programs come first.
    """
    most = max(LANES, math.ceil(UNEVEN * lengths.sum() / WARPS))
    pieces = np.select([lengths <= most, lengths <= 2 * most], [1, 2], SLOTS)
    longest = -(-lengths // pieces)
    order = np.lexsort((-longest, -pieces))  # by pieces: then none of a row leaves its program
    every = np.repeat(order, pieces[order])
    number = np.concatenate([np.arange(count) for count in (0, *pieces[order])])
    own = np.clip(lengths[every] - number * longest[every], 0, longest[every])
    missing = -len(every) % SLOTS
    rows = np.pad(every, (0, missing), constant_values=-1).reshape(-1, SLOTS)
    programs = np.pad(own, (0, missing)).reshape(-1, SLOTS)
    heavy = np.argsort(-programs.max(1), kind="stable")
    starts = np.concatenate([[0], np.cumsum(programs[heavy])])
    return rows[heavy].reshape(-1).astype(np.int32), starts.astype(np.int32)


def _first_packs(slots: NDArray[np.int32], starts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where the packs of each row start."""
    rows, first = np.unique(slots, return_index=True)
    return starts[first[rows >= 0]].astype(np.int64)


def _places(kept: NDArray[np.bool_], each: int) -> NDArray[np.int32]:
    """Of so many groups at a time of every row which are kept, and how many before them."""
    rows, groups = kept.shape
    flags = np.pad(kept, ((0, 0), (0, -groups % each))).reshape(rows, -1, each)
    counts = flags.sum(2)
    before = np.cumsum(counts, axis=1) - counts
    places = (before << _FLAGS) + (flags << np.arange(each)).sum(2)
    return np.ascontiguousarray(places.T.astype(np.int32))


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    group, slots = packed.sizes["group"], packed.arrays["Rows"]
    each = PACK // group
    scales, zeros, places = parts_of(packed.arrays["Words"].view(np.uint32))
    spans = packed.arrays["Codes"].view(f"u{group // 8}").reshape(-1, 4, each).swapaxes(1, 2)
    rows = np.repeat(slots, each * np.diff(packed.arrays["Starts"]))
    real = np.flatnonzero(scales)
    words = spans.reshape(-1, 4)[real].astype(np.uint32)
    shape = packed.rows, packed.columns // group
    coded = Coded(
        np.zeros((*shape, group), np.uint8),
        np.zeros(shape, np.float16),
        np.zeros(shape, np.uint8),
        packed.columns,
    )
    at = rows[real], places[real]
    coded.codes[at] = unmixed(words, turns_of(real // each, group), group)
    coded.scales[at], coded.zeros[at] = scales[real], zeros[real]
    return dequantized(coded)


def recipe(product: Product) -> Recipe:
    """Programs take slots, or tiles of rows; see :func:`recipe_of`."""
    few, many = by_name(_OF_SLOTS), by_name(_OF_TILES)
    programs = product.sizes["slots"] // SLOTS
    return recipe_of(product, product.sizes["group"], programs, few, many)


GROUP_FORM = Form(
    name="groups",
    arrays=("Codes", "Words", *_OF_SLOTS, *_OF_TILES),
    sizes=("group", "slots"),
    pack=pack,
    unpack=unpack,
    recipe=recipe,
    exact=False,
)
"""Kept groups as codes of four bits."""
