"""What a softmax over all keys gives each block of scores: the search of AdaSpa (arXiv 2502.21079).

A program goes along its tile of queries twice: for the log-sum-exp of each query, then for the sums
of weights of each block, which need it; keys come from the L2 cache the second time. The paper
takes the log-sum-exp of an earlier search instead. That would spare half of a search, of which a
sampling has two, but then blocks would not be those that other backends find.
"""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-1e30)


@triton.jit
def sum_blocks(
    Q,
    K,
    Masses,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    queries,
    keys,
    heads,
    group,
    tiles,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the sums of weights of the blocks of one tile of queries.

    Args:
        Q: Batch, heads, tokens and D features; the strides of the first three are ``q_...``.
        K: The same of keys, with one head for ``group`` heads of queries.
        Masses: Float32 ``[batch, heads, blocks of queries, blocks of keys]``, written.
        tiles: Of ROWS queries, of one head.
        scale: What scores are multiplied by, and by log2 e; not negative.
    """
    head = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    batch = tl.program_id(1).to(tl.int64)
    Q += batch * q_batch + head.to(tl.int64) * q_head
    K += batch * k_batch + (head // group).to(tl.int64) * k_head

    i = tile * ROWS + tl.arange(0, ROWS)
    within = tl.arange(0, BLOCK)
    features = tl.arange(0, D)[None, :]
    q = tl.load(Q + i[:, None] * q_token + features, mask=i[:, None] < queries, other=0.0)
    top = tl.full((ROWS,), _LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    whole = keys // BLOCK
    blocks = tl.cdiv(keys, BLOCK)

    for column in range(whole):
        j = column * BLOCK + within
        k = tl.load(K + j[:, None] * k_token + features)
        top, total = _fold(top, total, tl.dot(q, tl.trans(k)), scale)
    for column in range(whole, blocks):
        scores = _cut(q, K, column * BLOCK + within, keys, k_token, features)
        top, total = _fold(top, total, scores, scale)

    # what no query is has no weight: exp2(0 - inf)
    sums = tl.where(i < queries, top + tl.log2(total), float("inf"))
    down = tl.cdiv(queries, BLOCK)
    row = tile * (ROWS // BLOCK) + tl.arange(0, ROWS // BLOCK)
    Masses += ((batch * heads + head) * down + row) * blocks
    for column in range(whole):
        j = column * BLOCK + within
        k = tl.load(K + j[:, None] * k_token + features)
        mass = _mass(tl.dot(q, tl.trans(k)), sums, scale, ROWS, BLOCK)
        tl.store(Masses + column, mass, mask=row < down)
    for column in range(whole, blocks):
        scores = _cut(q, K, column * BLOCK + within, keys, k_token, features)
        mass = _mass(scores, sums, scale, ROWS, BLOCK)
        tl.store(Masses + column, mass, mask=row < down)


@triton.jit
def _cut(q, K, j, keys, k_token, features):
    """Scores of the block that the end of the keys cuts."""
    k = tl.load(K + j[:, None] * k_token + features, mask=j[:, None] < keys, other=0.0)
    return tl.where(j[None, :] < keys, tl.dot(q, tl.trans(k)), float("-inf"))


@triton.jit
def _fold(top, total, scores, scale):
    """Add a block of scores to the sums of a softmax; ``top`` is scaled, scores are not."""
    higher = tl.maximum(top, tl.max(scores, 1) * scale)
    total = total * tl.math.exp2(top - higher)
    return higher, total + tl.sum(tl.math.exp2(scores * scale - higher[:, None]), 1)


@triton.jit
def _mass(scores, sums, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of weights of the blocks of a tile, ``[ROWS / BLOCK]``."""
    of_queries = tl.sum(tl.math.exp2(scores * scale - sums[:, None]), 1)
    return tl.sum(tl.reshape(of_queries, (ROWS // BLOCK, BLOCK)), 1)
