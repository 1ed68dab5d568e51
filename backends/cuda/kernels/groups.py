"""Products of a few tokens with weights of four bits, all of them or groups that are kept.

What a program waits for are the weights, so that it reads each once, 16 bytes in a thread: the
codes of 32 weights. The inputs that these meet come from the first-level cache, in four loads of
16 bytes for each token, which neighbouring threads take in another order, since they would meet in
the same banks. A weight takes about four instructions, and three for each token.
"""

import triton
import triton.language as tl

_TWO_23 = tl.constexpr(0x4B000000)
"""2²³ in float32; with a code in its lowest bits it is 2²³ + code."""
_FOUR_POWERS = tl.constexpr(0x02000000)
"""Taken off, it is four powers of two less, so that the code is to lie four bits higher."""


@triton.jit
def kept(
    X,
    Codes,
    Words,
    Starts,
    Rows,
    Out,
    tokens,
    rows,
    columns,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write the outputs of at most ``TOKENS`` tokens for the rows in a program's slots.

    Args:
        X: ``[tokens, columns]``, of 16 bits each.
        Codes: Int32 ``[packs, 4]``: a pack holds the 32 codes of one or two groups, see `_add`.
        Words: Int32 ``[packs, 32 / GROUP]``: scale, zero and column of a group.
        Starts: Int32 ``[slots + 1]``: where the packs of each slot begin.
        Rows: Int32 ``[slots]``: the row that a slot holds a piece of, or -1. All pieces of a row
            lie in one program.
        Out: ``[tokens, rows]``, as X.
    """
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    row = tl.load(Rows + slot)
    start, end = tl.load(Starts + slot), tl.load(Starts + slot + 1)
    pack = start[:, None] + tl.arange(0, LANES)[None, :]
    turn = pack >> 1  # of which two bits count, so that it stays as it is
    real = pack < end[:, None]
    ahead = _pack(Codes, Words, pack, real, GROUP)
    sums = _zeros((SLOTS, LANES), TOKENS)
    for _ in range(tl.cdiv(tl.max(end - start), LANES)):
        now, here = ahead, real
        pack += LANES
        real = pack < end[:, None]
        ahead = _pack(Codes, Words, pack, real, GROUP)
        for part in tl.static_range(32 // GROUP):
            word = now[1 + part]
            place = ((word >> 20) & 0xFFF) * GROUP
            sums = _add(
                *(sums, X, tokens, columns, place, now[0], part, word, here, turn),
                *(GROUP, TOKENS),
            )
    same = row[:, None] == row[None, :]
    for token in tl.static_range(TOKENS):
        pieces = tl.sum(sums[token], 1)[None, :]
        out = tl.sum(tl.where(same, pieces, 0.0), 1)
        inside = (row >= 0) & (token < tokens)
        tl.store(Out + token * rows + row, out.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def every(
    X,
    Codes,
    Words,
    Out,
    tokens,
    rows,
    columns,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """As :func:`kept` for a weight of which all is kept: packs lie row by row.

    Args:
        X: ``[tokens, columns]``, of 16 bits each.
        Codes: Int32 ``[rows, columns / 32, 4]``.
        Words: Int32 ``[rows, columns / GROUP, rounded up]``: scale and zero of a group.
        Out: ``[tokens, rows]``, as X.
    """
    row = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    packs = columns // 32
    Codes += row[:, None, None].to(tl.int64) * packs * 4
    Words += row[:, None].to(tl.int64) * tl.cdiv(columns, GROUP)
    pack = tl.arange(0, LANES)[None, :] + tl.zeros((SLOTS, 1), tl.int32)
    turn = pack >> 1
    real = (row[:, None] < rows) & (pack < packs)
    ahead = _pack(Codes, Words, pack, real, GROUP)
    sums = _zeros((SLOTS, LANES), TOKENS)
    for _ in range(tl.cdiv(packs, LANES)):
        now, here, place = ahead, real, tl.where(real, pack * 32, 0)
        pack += LANES
        real = (row[:, None] < rows) & (pack < packs)
        ahead = _pack(Codes, Words, pack, real, GROUP)
        sums = _add(
            *(sums, X, tokens, columns, place, now[0], 0, now[1], here, turn),
            *(32, TOKENS),
        )
    for token in tl.static_range(TOKENS):
        out = tl.sum(sums[token], 1)
        inside = (row < rows) & (token < tokens)
        tl.store(Out + token * rows + row, out.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def _pack(Codes, Words, pack, real, GROUP: tl.constexpr):
    """Codes of packs, and the word of each of their groups, or of the larger one they are in."""
    words = tl.arange(0, 4)[None, None, :]
    made = (tl.load(Codes + pack[:, :, None] * 4 + words, mask=real[:, :, None], other=0),)
    if GROUP > 32:
        made = made + (tl.load(Words + pack // (GROUP // 32), mask=real, other=0),)
    else:
        for part in tl.static_range(32 // GROUP):
            made = made + (tl.load(Words + pack * (32 // GROUP) + part, mask=real, other=0),)
    return made


@triton.jit
def _zeros(shape: tl.constexpr, TOKENS: tl.constexpr):
    """For each token."""
    sums = ()
    for _ in tl.static_range(TOKENS):
        sums = sums + (tl.zeros(shape, tl.float32),)
    return sums


@triton.jit
def _add(
    sums,
    X,
    tokens,
    columns,
    place,
    codes,
    part: tl.constexpr,
    word,
    here,
    turn,
    SPAN: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Add to the sums of each token what ``SPAN`` codes of each pack give.

    Of the bytes of word w of a pack, those of ``part`` hold two neighbours each: byte i the codes
    for inputs ``2 w`` and ``2 w + 1`` of eight, and it is the eight with the number i ^ turn.
    """
    inputs = X.to(tl.pointer_type(tl.int32), bitcast=True)
    inputs += place[:, :, None] // 2 + tl.arange(0, 4)[None, None, :]
    scale = scale_of(word)
    zero = ((word >> 16) & 15)[:, :, None]
    group = ()
    for i in tl.static_range(SPAN // 8):
        eight = (i ^ (turn & (SPAN // 8 - 1)))[:, :, None]
        half = codes >> (16 * ((part * (SPAN // 8) + i) // 2))
        low = whole(half, zero, 2 * (i % 2), columns)
        high = whole(half, zero, 2 * (i % 2) + 1, columns)
        more = ()
        for token in tl.static_range(TOKENS):
            at = tl.minimum(token, tokens - 1) * (columns // 16 * 8) + eight * 4
            pair = tl.load(inputs + at)
            x, y = _halves(pair, X.dtype.element_ty == tl.bfloat16)
            if i == 0:
                more = more + (low * x + high * y,)
            else:
                more = more + (group[token] + low * x + high * y,)
        group = more
    total = ()
    for token in tl.static_range(TOKENS):
        total = total + (sums[token] + tl.where(here, scale * tl.sum(group[token], 2), 0.0),)
    return total


@triton.jit
def scale_of(word):
    """The scale of a group, as float32."""
    return (word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def whole(codes, zero, nibble: tl.constexpr, columns):
    """``code - zero`` as float32, of codes that lie in bits ``4 nibble`` on, without a shift.

    Columns are a multiple of 16: what is taken off the constant is nothing, but keeps it in a
    register, so that both operations on bits become one.
    """
    power = (_TWO_23 - nibble * _FOUR_POWERS) - (columns & 15)
    code = ((codes & (15 << (4 * nibble))) | power).to(tl.float32, bitcast=True)
    return code - ((zero << (4 * nibble)) | power).to(tl.float32, bitcast=True)


@triton.jit
def _halves(pair, bfloat16: tl.constexpr):
    """The two numbers of 16 bits in each word, as float32."""
    if bfloat16:
        low = (pair << 16).to(tl.float32, bitcast=True)
        high = (pair & -65536).to(tl.float32, bitcast=True)
    else:
        low = pair.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        high = (pair >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return low, high
