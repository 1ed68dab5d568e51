"""Attention over the tiles of scores that are kept: one program for each tile of queries.

Online softmax as in FlashAttention-2 (Dao, arXiv 2307.08691), in powers of two. The tiles of a row
lie as full ones first, which need no mask, then partial ones; the column of the next tile is read
while one is computed, so that its keys can be fetched ahead.
"""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-1e30)
"""Below every score, and still a number: a query that has seen no key yet makes no NaN."""
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend(
    Q,
    K,
    V,
    Out,
    Lse,
    Order,
    Rows,
    Full,
    Columns,
    Bits,
    Places,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    out_batch,
    out_head,
    out_token,
    queries,
    keys,
    heads,
    group,
    tiles,
    pattern_heads,
    grain,
    left,
    right,
    sinks,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ORDERED: tl.constexpr,
):
    """Write the output and the log-sum-exp of one tile of queries.

    Args:
        Q: Batch, heads, tokens and D features; the strides of the first three are ``q_...``.
        K: The same of keys, with one head for ``group`` heads of queries.
        V: As K.
        Out: As Q.
        Lse: Float32 ``[batch, heads, queries]``: natural logarithm of the sum of exponentials.
        Order: Int32, the tiles to compute, ``head · tiles + tile``: heavy ones first.
        Rows: Int32: where the tiles of keys of each row begin in Columns, ``[rows + 1]``.
        Full: Int32: where the partial ones of each row begin.
        Columns: Int32, tiles of keys; one more behind the last.
        Bits: Int32, of each of these, which squares of ``grain`` tokens are kept, row by row.
        Places: Int32 ``[pattern_heads, queries]``: where token i of the order that tiles are of
            lies. Read if ORDERED; then there are as many keys.
        scale: What scores are multiplied by, and by log2 e; not negative.
    """
    which = tl.load(Order + tl.program_id(0))
    batch = tl.program_id(1).to(tl.int64)
    head = which // tiles
    tile = which % tiles
    row = (head % pattern_heads) * tiles + tile
    start, middle, end = tl.load(Rows + row), tl.load(Full + row), tl.load(Rows + row + 1)
    Q += batch * q_batch + head.to(tl.int64) * q_head
    K += batch * k_batch + (head // group).to(tl.int64) * k_head
    V += batch * v_batch + (head // group).to(tl.int64) * v_head
    Out += batch * out_batch + head.to(tl.int64) * out_head
    Lse += (batch * heads + head) * queries

    down = tl.arange(0, ROWS)
    across = tl.arange(0, COLUMNS)
    features = tl.arange(0, D)
    i = tile * ROWS + down
    place = i
    if ORDERED:
        Places += (head % pattern_heads) * queries
        place = tl.load(Places + i, mask=i < queries, other=0)
    q = tl.load(
        Q + place[:, None] * q_token + features[None, :], mask=i[:, None] < queries, other=0.0
    )
    top = tl.full((ROWS,), _LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D), tl.float32)

    column = tl.load(Columns + start)
    for at in range(start, middle):
        j = column * COLUMNS + across
        column = tl.load(Columns + at + 1)
        if ORDERED:
            j = tl.load(Places + j)
        k = tl.load(K + j[None, :] * k_token + features[:, None])
        v = tl.load(V + j[:, None] * v_token + features[None, :])
        scores = tl.dot(q, k)
        acc, top, total = _fold(acc, top, total, scores, v, scale)

    first_bit = (down // grain) * tl.cdiv(COLUMNS, grain)  # of each row; no square of them is kept
    for at in range(middle, end):
        j = column * COLUMNS + across
        bits = tl.load(Bits + at)
        column = tl.load(Columns + at + 1)
        kept = (bits >> first_bit)[:, None] >> (across // grain)[None, :]
        of_tile = seen(i[:, None], j[None, :], kept, keys, left, right, sinks)
        real = j < keys
        if ORDERED:
            j = tl.load(Places + j, mask=real, other=0)
        k = tl.load(K + j[None, :] * k_token + features[:, None], mask=real[None, :], other=0.0)
        v = tl.load(V + j[:, None] * v_token + features[None, :], mask=real[:, None], other=0.0)
        scores = tl.where(of_tile, tl.dot(q, k), float("-inf"))
        acc, top, total = _fold(acc, top, total, scores, v, scale)

    some = total > 0
    acc = acc / tl.where(some, total, 1.0)[:, None]
    lse = tl.where(some, (top + tl.log2(tl.where(some, total, 1.0))) * _LN2, float("-inf"))
    inside = i < queries
    tl.store(
        Out + place[:, None] * out_token + features[None, :],
        acc.to(Out.dtype.element_ty),
        mask=inside[:, None],
    )
    tl.store(Lse + place, lse, mask=inside)


@triton.jit
def _fold(acc, top, total, scores, v, scale):
    """Add a tile of scores and its values to a softmax; ``top`` is scaled, scores are not."""
    higher = tl.maximum(top, tl.max(scores, 1) * scale)
    weights = tl.math.exp2(scores * scale - higher[:, None])
    fade = tl.math.exp2(top - higher)
    total = total * fade + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None])
    return acc, higher, total


@triton.jit
def seen(i, j, kept, keys, left, right, sinks):
    """Which pairs of a partial tile are seen.

    Args:
        i: Queries, in the order that tiles are of, along one axis.
        j: Keys, along the other.
        kept: Numbers whose lowest bit says whether a pair is in a square that is kept.
    """
    near = (j >= i - left) | (j < sinks)
    return near & (j <= i + right) & (j < keys) & ((kept & 1) != 0)
