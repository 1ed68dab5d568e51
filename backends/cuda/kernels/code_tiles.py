"""Products of many tokens with weights of four bits: read as codes, multiplied as tiles.

A program makes tiles of weights from codes, zeros where a group is not kept, for tensor cores. A
weight takes eight to ten instructions, whatever number of tokens a program has.
"""

import triton
import triton.language as tl

from sparsecc.backends.cuda.kernels.groups import scale_of, whole


@triton.jit
def multiply(
    X,
    Codes,
    Words,
    Firsts,
    Places,
    Out,
    Parts,
    tokens,
    rows,
    columns,
    splits,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Write ``[TOKENS, ROWS]`` of the product, or of one of its parts.

    Args:
        X: ``[tokens, columns]``.
        Codes: As in `groups.kept` or, unless KEPT, `groups.every`.
        Words: Of groups, as there.
        Firsts: Int32 ``[rows]``: the first group of each row. Read if KEPT, as is Places.
        Places: Int32 ``[columns / STEP, rows]``: of the groups in these columns of a row, a bit for
            each that is kept, and times 256 how many are before them.
        Out: ``[tokens, rows]``, written if there is one split.
        Parts: Float32 ``[splits, tokens, rows]``, written if there are more.
    """
    SPAN: tl.constexpr = GROUP if KEPT else 32
    EACH: tl.constexpr = 32 // SPAN
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    split = tl.program_id(2)
    steps = tl.cdiv(columns, STEP)
    share = tl.cdiv(steps, splits)
    begin = tl.minimum(split * share, steps)
    end = tl.minimum(begin + share, steps)
    spans = tl.arange(0, STEP // SPAN)
    of_step = tl.arange(0, STEP)
    if KEPT:
        before = tl.load(Firsts + row, mask=row < rows, other=0)
        Places += begin.to(tl.int64) * rows + row
    X += token.to(tl.int64)[:, None] * columns
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    for step in range(begin, end):
        if KEPT:
            place = tl.load(Places, mask=row < rows, other=0)
            Places += rows
            flags = _spread(place & 255)[:, None] >> (4 * spans[None, :])
            ranks = (_spread(place & 255) * 0x11111110)[:, None] >> (4 * spans[None, :])
            at = (before + (place >> 8))[:, None] + (ranks & 15)
            real = (flags & 1) != 0
            word = tl.load(Words + at, mask=real, other=0)
            pack, part, turn = at // EACH, at % EACH, at // EACH
        else:
            turn = step * (STEP // 32) + spans[None, :]
            real = (row[:, None] < rows) & (turn < columns // 32)
            of_row = row[:, None] * tl.cdiv(columns, GROUP)
            word = tl.load(Words + of_row + turn // (GROUP // 32), mask=real, other=0)
            pack, part = row[:, None] * (columns // 32) + turn, 0 * turn
        weights = _tile(Codes, pack, part, turn, word, real, columns, SPAN, X.dtype.element_ty)
        column = step * STEP + of_step
        inside = (token < tokens)[:, None] & (column < columns)[None, :]
        x = tl.load(X + column[None, :], mask=inside, other=0.0)
        acc = tl.dot(tl.reshape(weights, (ROWS, STEP)), tl.trans(x), acc)
    at = token.to(tl.int64)[:, None] * rows + row[None, :]
    inside = (token < tokens)[:, None] & (row < rows)[None, :]
    if splits == 1:
        tl.store(Out + at, tl.trans(acc).to(Out.dtype.element_ty), mask=inside)
    else:
        tl.store(Parts + split.to(tl.int64) * tokens * rows + at, tl.trans(acc), mask=inside)


@triton.jit
def _spread(bits):
    """Eight bits, each in four of its own; times 0x11111110 are these the numbers of lower ones."""
    bits = (bits | (bits << 12)) & 0x000F000F
    bits = (bits | (bits << 6)) & 0x03030303
    return (bits | (bits << 3)) & 0x11111111


@triton.jit
def _tile(Codes, pack, part, turn, word, real, columns, SPAN: tl.constexpr, DTYPE: tl.constexpr):
    """Weights ``[rows, spans, SPAN]``, zero where a span is not real."""
    words = tl.arange(0, 4)[None, None, :]
    codes = tl.load(Codes + pack[:, :, None] * 4 + words, mask=real[:, :, None], other=0)
    codes = codes >> (SPAN * part)[:, :, None]
    turn = ((turn >> 1) & (SPAN // 8 - 1))[:, :, None]
    first = _pairs(codes, 0, turn, word, columns, DTYPE)
    made = tl.join(first, _pairs(codes, 1, turn, word, columns, DTYPE))
    if SPAN == 16:  # [rows, spans, words, 2, eights]
        made = tl.permute(made, (0, 1, 4, 2, 3))
    else:
        third = _pairs(codes, 2, turn, word, columns, DTYPE)
        made = tl.join(made, tl.join(third, _pairs(codes, 3, turn, word, columns, DTYPE)))
        made = tl.permute(made, (0, 1, 5, 4, 2, 3))
    return made


@triton.jit
def _pairs(codes, eight: tl.constexpr, turn, word, columns, DTYPE: tl.constexpr):
    """The weights of two neighbours from each word."""
    codes = codes >> (8 * (eight ^ turn))
    scale, zero = scale_of(word)[:, :, None], ((word >> 16) & 15)[:, :, None]
    low, high = whole(codes, zero, 0, columns), whole(codes, zero, 1, columns)
    return tl.join((low * scale).to(DTYPE), (high * scale).to(DTYPE))
