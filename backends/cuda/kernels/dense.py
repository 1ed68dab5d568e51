"""A tile of outputs of a weight without zeros: what sparse forms compete with, on tensor cores."""

import triton
import triton.language as tl


@triton.jit
def multiply(
    X,
    Weight,
    Out,
    Parts,
    tokens,
    rows,
    columns,
    splits,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    MULTIPLE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write ``[TOKENS, ROWS]`` of the product, or of one of its parts.

    Programs go through GROUP tiles of rows before the next tokens, so that both are found in the
    cache.

    Args:
        X: ``[tokens, columns]``.
        Weight: ``[rows, columns]``, zeros behind them up to a multiple of MULTIPLE.
        Out: ``[tokens, rows]``, written if there is one split.
        Parts: Float32 ``[splits, tokens, rows]``, written if there are more.
    """
    tile, split = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.program_id(2)
    of_group = GROUP * tl.cdiv(tokens, TOKENS)
    first = tile // of_group * GROUP
    down = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    top = (first + tile % of_group % down) * ROWS
    start = tile % of_group // down * TOKENS
    row, token = top + tl.arange(0, ROWS), start + tl.arange(0, TOKENS)

    padded = tl.cdiv(columns, MULTIPLE) * MULTIPLE
    steps = padded // STEP
    begin, end = steps * split // splits, steps * (split + 1) // splits
    column = begin * STEP + tl.arange(0, STEP)
    Weight += tl.minimum(row, rows - 1).to(tl.int64)[:, None] * padded + column[None, :]
    X += tl.minimum(token, tokens - 1).to(tl.int64)[None, :] * columns + column[:, None]
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    for _ in range(begin, end):
        x = tl.load(X, mask=(column < columns)[:, None], other=0.0)
        acc = tl.dot(tl.load(Weight), x, acc)
        Weight += STEP
        X += STEP
        column += STEP

    corner = start.to(tl.int64) * rows + top
    place = (token - start)[:, None] * rows + (row - top)[None, :]
    inside = (token < tokens)[:, None] & (row < rows)[None, :]
    if splits == 1:
        tl.store(Out + corner + place, tl.trans(acc).to(Out.dtype.element_ty), mask=inside)
    else:
        Parts += split.to(tl.int64) * tokens * rows + corner
        tl.store(Parts + place, tl.trans(acc), mask=inside)
