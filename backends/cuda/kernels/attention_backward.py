"""Gradients of attention over kept tiles of scores, in two kernels; no sums by atomics.

As FlashAttention-2 (Dao, arXiv 2307.08691, algorithm 2): weights are computed again from the
log-sum-exp of the forward, and ``delta`` is the sum of a query's output times its gradient. The
first kernel goes along rows of tiles, makes delta on its way and the gradients of queries; the
second goes along columns of tiles, for the queries of all heads that share keys, and makes those of
keys and values. It reads what the first one has made.
"""

import triton
import triton.language as tl

from sparsecc.backends.cuda.kernels.attention import seen

_LN2 = tl.constexpr(0.6931471805599453)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def gradients_of_queries(
    Q,
    K,
    V,
    Out,
    Grad,
    DQ,
    Lse,
    Delta,
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
    grad_batch,
    grad_head,
    grad_token,
    dq_batch,
    dq_head,
    dq_token,
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
    """Write the gradients of one tile of queries, and their delta.

    Args are those of the forward (:func:`sparsecc.backends.cuda.kernels.attention.attend`), and:

    Args:
        Out: What the forward made.
        Grad: Of Out.
        DQ: Of Q, written.
        Lse: Float32 ``[batch, heads, queries]``, of the forward.
        Delta: As Lse, written.
        scale: May be negative.
    """
    which = tl.load(Order + tl.program_id(0))
    batch = tl.program_id(1).to(tl.int64)
    head = which // tiles
    tile = which % tiles
    row = (head % pattern_heads) * tiles + tile
    start, middle, end = tl.load(Rows + row), tl.load(Full + row), tl.load(Rows + row + 1)
    of_keys = (head // group).to(tl.int64)
    of_queries = head.to(tl.int64)
    Q += batch * q_batch + of_queries * q_head
    K += batch * k_batch + of_keys * k_head
    V += batch * v_batch + of_keys * v_head
    Out += batch * out_batch + of_queries * out_head
    Grad += batch * grad_batch + of_queries * grad_head
    DQ += batch * dq_batch + of_queries * dq_head
    Lse += (batch * heads + head) * queries
    Delta += (batch * heads + head) * queries

    down = tl.arange(0, ROWS)
    across = tl.arange(0, COLUMNS)
    features = tl.arange(0, D)[None, :]
    i = tile * ROWS + down
    inside = i < queries
    place = i
    if ORDERED:
        Places += (head % pattern_heads) * queries
        place = tl.load(Places + i, mask=inside, other=0)
    q = tl.load(Q + place[:, None] * q_token + features, mask=inside[:, None], other=0.0)
    grad = tl.load(Grad + place[:, None] * grad_token + features, mask=inside[:, None], other=0.0)
    out = tl.load(Out + place[:, None] * out_token + features, mask=inside[:, None], other=0.0)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(Delta + place, delta, mask=inside)
    # what no query is has no weight: exp2(0 - inf)
    sums = tl.load(Lse + place, mask=inside, other=float("inf")) * _LOG2_E
    acc = tl.zeros((ROWS, D), tl.float32)

    column = tl.load(Columns + start)
    for at in range(start, middle):
        j = column * COLUMNS + across
        column = tl.load(Columns + at + 1)
        if ORDERED:
            j = tl.load(Places + j)
        k = tl.load(K + j[:, None] * k_token + features)
        v = tl.load(V + j[:, None] * v_token + features)
        weights = _weights(q, k, sums[:, None], scale)
        acc = tl.dot(_of_scores(weights, grad, v, delta[:, None]).to(k.dtype), k, acc)

    first_bit = (down // grain) * tl.cdiv(COLUMNS, grain)
    for at in range(middle, end):
        j = column * COLUMNS + across
        column = tl.load(Columns + at + 1)
        real = j < keys
        at_place = j
        if ORDERED:
            at_place = tl.load(Places + j, mask=real, other=0)
        k = tl.load(K + at_place[:, None] * k_token + features, mask=real[:, None], other=0.0)
        v = tl.load(V + at_place[:, None] * v_token + features, mask=real[:, None], other=0.0)
        kept = (tl.load(Bits + at) >> first_bit)[:, None] >> (across // grain)[None, :]
        of_tile = seen(i[:, None], j[None, :], kept, keys, left, right, sinks)
        weights = tl.where(of_tile, _weights(q, k, sums[:, None], scale), 0.0)
        acc = tl.dot(_of_scores(weights, grad, v, delta[:, None]).to(k.dtype), k, acc)

    tl.store(
        DQ + place[:, None] * dq_token + features,
        (acc * (scale * _LN2)).to(DQ.dtype.element_ty),
        mask=inside[:, None],
    )


@triton.jit
def gradients_of_keys(
    Q,
    K,
    V,
    Grad,
    DK,
    DV,
    Lse,
    Delta,
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
    grad_batch,
    grad_head,
    grad_token,
    dk_batch,
    dk_head,
    dk_token,
    dv_batch,
    dv_head,
    dv_token,
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
    together,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ORDERED: tl.constexpr,
    STEP: tl.constexpr,
):
    """Write the gradients of one tile of keys and values.

    Args are those of :func:`gradients_of_queries`, but tiles are listed by their keys, and:

    Args:
        DK: Of K, written; a head for ``together`` heads of queries.
        DV: Of V, written, as DK.
        Delta: Read.
        Order: The tiles of keys to compute, ``head of DK · tiles + tile``.
        Rows: Where the tiles of queries of each tile of keys begin in Columns.
        Full: Where the partial ones of each begin.
        Columns: Tiles of queries; one more behind the last.
        Bits: As in the forward.
        together: How many heads of queries a program sums up: ``group``, or 1 if ORDERED, since a
            tile is of other keys where heads have other orders.
    """
    which = tl.load(Order + tl.program_id(0))
    batch = tl.program_id(1).to(tl.int64)
    written = which // tiles
    tile = which % tiles
    first = written * together
    of_keys = (first // group).to(tl.int64)
    K += batch * k_batch + of_keys * k_head
    V += batch * v_batch + of_keys * v_head
    DK += batch * dk_batch + written.to(tl.int64) * dk_head
    DV += batch * dv_batch + written.to(tl.int64) * dv_head
    Q += batch * q_batch
    Grad += batch * grad_batch
    Lse += batch * heads * queries
    Delta += batch * heads * queries

    PARTS: tl.constexpr = ROWS // STEP
    step = tl.arange(0, STEP)
    across = tl.arange(0, COLUMNS)
    features = tl.arange(0, D)[None, :]
    j = tile * COLUMNS + across
    inside = j < keys
    place = j
    if ORDERED:
        Places += (first % pattern_heads) * queries
        place = tl.load(Places + j, mask=inside, other=0)
    k = tl.load(K + place[:, None] * k_token + features, mask=inside[:, None], other=0.0)
    v = tl.load(V + place[:, None] * v_token + features, mask=inside[:, None], other=0.0)
    of_k = tl.zeros((COLUMNS, D), tl.float32)
    of_v = tl.zeros((COLUMNS, D), tl.float32)

    for head in range(first, first + together):
        row = (head % pattern_heads) * tiles + tile
        start, middle, end = tl.load(Rows + row), tl.load(Full + row), tl.load(Rows + row + 1)
        of_head = tl.cast(head, tl.int64)
        Qs = Q + of_head * q_head
        Grads = Grad + of_head * grad_head
        Sums = Lse + of_head * queries
        Deltas = Delta + of_head * queries
        # tiles are taken in parts of STEP queries
        column = tl.load(Columns + start)
        for turn in range(start * PARTS, middle * PARTS):
            i = column * ROWS + (turn % PARTS) * STEP + step
            column = tl.load(Columns + (turn + 1) // PARTS)
            q, grad, sums, delta = _of_queries(
                Qs, Grads, Sums, Deltas, Places, i, queries, q_token, grad_token, features, ORDERED
            )
            weights = _weights(k, q, sums[None, :], scale)
            of_v = tl.dot(weights.to(grad.dtype), grad, of_v)
            of_k = tl.dot(_of_scores(weights, v, grad, delta[None, :]).to(q.dtype), q, of_k)

        for turn in range(middle * PARTS, end * PARTS):
            down = (turn % PARTS) * STEP + step
            i = column * ROWS + down
            bits = tl.load(Bits + turn // PARTS)
            column = tl.load(Columns + (turn + 1) // PARTS)
            first_bit = (down // grain) * tl.cdiv(COLUMNS, grain)
            kept = (bits >> first_bit)[None, :] >> (across // grain)[:, None]
            of_tile = seen(i[None, :], j[:, None], kept, keys, left, right, sinks)
            q, grad, sums, delta = _of_queries(
                Qs, Grads, Sums, Deltas, Places, i, queries, q_token, grad_token, features, ORDERED
            )
            weights = tl.where(of_tile, _weights(k, q, sums[None, :], scale), 0.0)
            of_v = tl.dot(weights.to(grad.dtype), grad, of_v)
            of_k = tl.dot(_of_scores(weights, v, grad, delta[None, :]).to(q.dtype), q, of_k)

    tl.store(
        DK + place[:, None] * dk_token + features,
        (of_k * (scale * _LN2)).to(DK.dtype.element_ty),
        mask=inside[:, None],
    )
    tl.store(
        DV + place[:, None] * dv_token + features,
        of_v.to(DV.dtype.element_ty),
        mask=inside[:, None],
    )


@triton.jit
def _weights(down, across, sums, scale):
    """Of a tile, either way: queries down and keys across, or the other way round."""
    return tl.math.exp2(tl.dot(down, tl.trans(across)) * scale - sums)


@triton.jit
def _of_scores(weights, down, across, delta):
    """Gradients of scores before their scale, from those of queries and values, either way."""
    return weights * (tl.dot(down, tl.trans(across)) - delta)


@triton.jit
def _of_queries(
    Q, Grad, Lse, Delta, Places, i, queries, q_token, grad_token, features, ORDERED: tl.constexpr
):
    """What some queries bring: themselves, their gradients, their sums and their deltas."""
    real = i < queries
    place = i
    if ORDERED:
        place = tl.load(Places + i, mask=real, other=0)
    q = tl.load(Q + place[:, None] * q_token + features, mask=real[:, None], other=0.0)
    grad = tl.load(Grad + place[:, None] * grad_token + features, mask=real[:, None], other=0.0)
    # what no query is has no weight: exp2(0 - inf)
    sums = tl.load(Lse + place, mask=real, other=float("inf")) * _LOG2_E
    return q, grad, sums, tl.load(Delta + place, mask=real, other=0.0)
