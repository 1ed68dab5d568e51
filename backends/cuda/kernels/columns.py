"""A tile of outputs from the columns that a tile of rows keeps: gathered inputs, tensor cores.

The number of columns is a multiple of STEP, so that the loop has no masks on values. The places of
the next columns are read while these are multiplied.
"""

import triton
import triton.language as tl


@triton.jit
def multiply(
    X,
    Values,
    Columns,
    Starts,
    Order,
    Out,
    Parts,
    x_column,
    x_token,
    tokens,
    rows,
    splits,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    TURNED: tl.constexpr,
):
    """Write ``[TOKENS, ROWS]`` of the product, or of one of its parts.

    Args:
        X: Inputs at ``column · x_column + token · x_token``; if TURNED, x_token is one and there
            are tokens up to a multiple of TOKENS.
        Values: ``[steps, ROWS, STEP]``.
        Columns: Of each of these, its input; one more step behind the last.
        Starts: Int32: where the steps of a tile of rows begin, ``[tiles + 1]``.
        Order: Int32: tiles of rows, those with the most steps first.
        Out: ``[tokens, rows]``, written if there is one split.
        Parts: Float32 ``[splits, tokens, rows]``, written if there are more.
    """
    tile = tl.load(Order + tl.program_id(0))
    split = tl.program_id(2)
    begin, end = tl.load(Starts + tile), tl.load(Starts + tile + 1)
    share = tl.cdiv(end - begin, splits)
    first = tl.minimum(begin + split * share, end)
    last = tl.minimum(first + share, end)

    of_step = tl.arange(0, STEP)
    down = tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    here = token < tokens
    X += token.to(tl.int64)[None, :] * (1 if TURNED else x_token)
    Values += first.to(tl.int64) * (STEP * ROWS) + down[:, None] * STEP + of_step[None, :]
    Columns += first.to(tl.int64) * STEP + of_step
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    column = tl.load(Columns)
    for _ in range(first, last):
        at = X + column.to(tl.int64)[:, None] * x_column
        Columns += STEP
        column = tl.load(Columns)
        x = tl.load(at) if TURNED else tl.load(at, mask=here[None, :], other=0.0)
        acc = tl.dot(tl.load(Values), x, acc)
        Values += STEP * ROWS

    row = tile * ROWS + down
    place = token.to(tl.int64)[:, None] * rows + row[None, :]
    inside = here[:, None] & (row < rows)[None, :]
    if splits == 1:
        tl.store(Out + place, tl.trans(acc).to(Out.dtype.element_ty), mask=inside)
    else:
        Parts += split.to(tl.int64) * tokens * rows
        tl.store(Parts + place, tl.trans(acc), mask=inside)
