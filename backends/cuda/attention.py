"""What the kernel of attention is given: tensors, packed tiles, and how many programs it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparsecc.backends.cuda.kernel import DTYPES, Arch, Kernel
from sparsecc.backends.cuda.rows.attention import (
    BLOCK,
    FORWARD,
    SEARCH_ROWS,
    attention_name,
    search_name,
    stride_names,
)
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.backends.cuda.tiles import Flags, Rule, Tiles, pack
from sparsecc.errors import BackendError

FEATURES = (64, 128)
"""Of a head, that there are kernels for."""
LIKE = "float16"
"""Tiles of all element types are as large."""
ALIGNMENT = 16
"""Of strides in elements, and of addresses in bytes."""
SIZES = ("tiles", "pattern_heads", "grain", "left", "right", "sinks")
"""Numbers of tiles by their names in the kernel."""
LISTS = ("Rows", "Full", "Columns", "Bits")
"""Lists of tiles by their names in the kernel."""
LESS = 0.8
"""Tiles of 64 queries are taken where they do less than this share of the arithmetic of those of
128, which read half as much. Not measured yet."""
LOG2_E = 1.4426950408889634
_MOST_ELEMENTS = 2**31


def kernel_of(dtype: str, features: int, rows: int, ordered: bool, part: str = FORWARD) -> Kernel:
    """The row of the table.

    Args:
        dtype: Of queries, keys and values, as torch names it.
        features: Of a head.
        rows: Queries of a tile.
        ordered: Whether tiles are of another order of tokens.
        part: Which of its kernels.

    Raises:
        BackendError: There is none.
    """
    _check_heads(dtype, features)
    name = attention_name(dtype, features, rows, ordered, part)
    if name not in KERNELS:
        raise BackendError(
            f"no kernel for tiles of {rows} queries{' in an order of their own' * ordered}",
            fix="use tiles of 128 queries, or of 64 where tokens stay as they stand",
        )
    return KERNELS[name]


def search_of(dtype: str, features: int, block: int) -> Kernel:
    """The row of the table that weighs blocks.

    Args:
        dtype: Of queries and keys, as torch names it.
        features: Of a head.
        block: Queries and keys of a block.

    Raises:
        BackendError: There is none.
    """
    _check_heads(dtype, features)
    if block != BLOCK:
        raise BackendError(
            f"no kernel that searches for blocks of {block} tokens", fix=f"use blocks of {BLOCK}"
        )
    return KERNELS[search_name(dtype, features)]


def _check_heads(dtype: str, features: int) -> None:
    if dtype not in DTYPES or features not in FEATURES:
        raise BackendError(
            f"no kernel for attention of {features} {dtype} features of a head",
            fix=f"use {' or '.join(map(str, FEATURES))} features in {' or '.join(DTYPES)}, or "
            "torch's own attention",
        )


def tile_of(dtype: str, features: int, rows: int, ordered: bool, arch: Arch) -> tuple[int, int]:
    """Queries and keys of a tile of that kernel on an architecture.

    Raises:
        BackendError: There is no such kernel.
        TargetError: It is not built for the architecture.
    """
    kernel = kernel_of(dtype, features, rows, ordered)
    return rows, kernel.constants_on(arch)["COLUMNS"]


def tiles_of(
    dtype: str,
    features: int,
    tokens: tuple[int, int],
    arch: Arch,
    *,
    rows: Sequence[int] = (128, 64),
    ordered: bool = False,
    kept: Flags | None = None,
    block: tuple[int, int] = (64, 64),
    rule: Rule | None = None,
) -> Tiles:
    """The tiles of an attention, of as many queries as is best.

    Args:
        dtype: Of queries, keys and values, as torch names it.
        features: Of a head.
        tokens: Queries and keys.
        arch: Of the GPU.
        rows: Queries of a tile to choose from: the second where that is :data:`LESS`.
        ordered: Whether tiles are of another order of tokens.
        kept: As :func:`sparsecc.backends.cuda.tiles.pack` has it, like the next two.
        block: Queries and keys of a block.
        rule: What is seen.

    Raises:
        BackendError: There is no kernel for heads like that.
        PlanError: The blocks are not of these tokens.
        TargetError: There are no kernels for the architecture.
    """
    sizes = [tile_of(dtype, features, each, ordered, arch) for each in rows]
    packed = [pack(*tokens, size, kept=kept, block=block, rule=rule) for size in sizes]
    return packed[-1] if packed[-1].share < LESS * packed[0].share else packed[0]


def grid_of(order: Any, q: Any) -> tuple[int, int]:
    """Programs: a row each, and the batch."""
    return order.shape[0], q.shape[0]


def arguments(
    tokens: Mapping[str, Any],
    sums: Mapping[str, Any],
    *,
    indices: Mapping[str, Any],
    sizes: Mapping[str, int],
    scale: float,
) -> dict[str, Any]:
    """Arguments of a kernel by name.

    Args:
        tokens: By name in the kernel, Q ``[B, H, L, D]`` and K ``[B, H / g, S, D]`` among them;
            strides of D are one and others multiples of :data:`ALIGNMENT`.
        sums: Float32 ``[B, H, L]``, contiguous.
        indices: Order, Rows, Full, Columns, Bits and, if ordered, Places, int32.
        sizes: What :func:`sizes_of` says, and other numbers of the kernel.
        scale: Of scores; in the forward not negative.

    Raises:
        BackendError: A stride or an address is no multiple, or a head is too large.
    """
    (_, heads, queries, _), (_, shared, keys, _) = tokens["Q"].shape, tokens["K"].shape
    return (
        {**tokens, **sums, "Places": indices["Order"], **indices, **_strides(tokens)}
        | {"queries": queries, "keys": keys, "heads": heads, "group": heads // shared}
        | {**sizes, "scale": scale * LOG2_E}
    )


def search_arguments(q: Any, k: Any, masses: Any, scale: float) -> dict[str, Any]:
    """Arguments of the kernel that weighs blocks, by name.

    Args:
        q: ``[B, H, L, D]``, strides as in :func:`arguments`.
        k: ``[B, H / g, S, D]``.
        masses: Float32 ``[B, H, blocks of queries, blocks of keys]``, written.
        scale: Of scores, not negative.

    Raises:
        BackendError: As there.
    """
    tokens = {"Q": q, "K": k}
    (_, heads, queries, _), (_, shared, keys, _) = q.shape, k.shape
    return (
        {**tokens, "Masses": masses, **_strides(tokens)}
        | {"queries": queries, "keys": keys, "heads": heads, "group": heads // shared}
        | {"tiles": math.ceil(queries / SEARCH_ROWS), "scale": scale * LOG2_E}
    )


def sizes_of(tiles: Tiles) -> dict[str, int]:
    """The numbers of tiles that the kernel is given: :data:`SIZES`."""
    rule = tiles.rule
    numbers = (tiles.down, tiles.heads, tiles.grain, rule.left, rule.right, rule.sinks)
    return dict(zip(SIZES, numbers, strict=True))


def is_aligned(strides: Sequence[int], address: int) -> bool:
    """Whether a kernel can read a tensor as it lies."""
    *others, last = strides
    return last == 1 and not any(each % ALIGNMENT for each in (*others, address))


def _strides(tokens: Mapping[str, Any]) -> dict[str, int]:
    strides: dict[str, int] = {}
    for name, tensor in tokens.items():
        _check_strides(name, tensor.shape, tensor.stride(), tensor.data_ptr())
        strides |= zip(stride_names(name), tensor.stride(), strict=False)
    return strides


def _check_strides(name: str, shape: Sequence[int], strides: Sequence[int], address: int) -> None:
    if not is_aligned(strides, address):
        raise BackendError(
            f"{name} {list(shape)} has the strides {list(strides)} at an address of {address}",
            fix=f"make it contiguous: strides have to be multiples of {ALIGNMENT}, the last one 1",
        )
    if shape[2] * strides[2] >= _MOST_ELEMENTS or max(strides) >= _MOST_ELEMENTS:
        raise BackendError(
            f"{name} {list(shape)} has a head that spans 2³¹ elements or more",
            fix="give each head its tokens one after the other: make it contiguous",
        )
