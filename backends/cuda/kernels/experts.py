"""A mixture of experts as grouped products: no token goes through an expert that it did not choose.

As in MegaBlocks (Gale et al., arXiv 2211.15841) pairs of a token and a slot are sorted by expert
and cut into tiles of one expert each; here rows are gathered where they are read, so that nothing
is padded in memory. No atomics on numbers: the same inputs give the same bits.
"""

import triton
import triton.language as tl

_CHUNK = tl.constexpr(1024)
"""Pairs, and tiles, that routing looks at in one go."""
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_TWICE_TANH_SCALE = tl.constexpr(1.5957691216057308)
_TANH_CUBIC = tl.constexpr(0.044715)


@triton.jit
def route(Experts, Order, Tiles, Count, pairs, experts, rows, BINS: tl.constexpr):
    """Sort the pairs of one expert, one program for each, and list its tiles.

    Every program counts all pairs for itself, which spares a launch: they are few, and in cache.
    What counting costs grows with BINS.

    Args:
        Experts: Int64 ``[pairs]``, the expert of each; those that do not exist get no place.
        Order: Int32 ``[pairs]``, written: the pair at each place, those of an expert in a row, in
            the order in which they came.
        Tiles: Int32 ``[most, 3]``, written: expert, first place and the place behind the last.
        Count: Int32 ``[1]``, written: how many tiles there are.
        rows: Places of a tile.
        BINS: A power of two, not below ``experts``.
    """
    ours = tl.program_id(0)
    across = tl.arange(0, _CHUNK)
    bins = tl.arange(0, BINS)
    counts = tl.zeros((BINS,), tl.int32)
    for at in range(0, pairs, _CHUNK):
        expert = _expert(Experts, at + across, pairs, experts)
        counts += tl.histogram(expert, BINS, mask=expert >= 0)
    tiles = (counts + rows - 1) // rows
    place = tl.sum(tl.where(bins < ours, counts, 0))
    tile = tl.sum(tl.where(bins < ours, tiles, 0))
    end = place + tl.sum(tl.where(bins == ours, counts, 0))

    for at in range(0, tl.cdiv(end - place, rows), _CHUNK):
        first = place + (at + across) * rows
        to = Tiles + (tile + at + across) * 3
        tl.store(to, ours, mask=first < end)
        tl.store(to + 1, first, mask=first < end)
        tl.store(to + 2, end, mask=first < end)
    if ours == 0:
        tl.store(Count, tl.sum(tiles))

    for at in range(0, pairs, _CHUNK):
        chosen = (_expert(Experts, at + across, pairs, experts) == ours).to(tl.int32)
        rank = tl.cumsum(chosen, 0) - chosen
        tl.store(Order + place + rank, at + across, mask=chosen != 0)
        place += tl.sum(chosen)


@triton.jit
def _expert(Experts, at, pairs, experts):
    """Experts of these pairs; below zero where there is none."""
    expert = tl.load(Experts + at, mask=at < pairs, other=-1)
    return tl.where(expert < experts, expert, -1).to(tl.int32)


@triton.jit
def up(
    X,
    Up,
    Gate,
    UpBias,
    GateBias,
    Order,
    Tiles,
    Count,
    Hidden,
    slots,
    features,
    inner,
    activation,
    biased,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    GATED: tl.constexpr,
):
    """Write a tile of hidden features, ``act(X upᵀ + bias) [· (X gateᵀ + bias)]``.

    Args:
        X: ``[tokens, features]``.
        Up: ``[experts, inner, features]``.
        Gate: As Up; read if GATED.
        UpBias: ``[experts, inner]``; read if ``biased``.
        GateBias: As UpBias.
        Order: As :func:`route` wrote it, like Tiles and Count.
        Hidden: ``[pairs, inner]`` by place, written.
        slots: Pairs of a token.
        activation: Its place in ``ACTIVATIONS``.
        COLUMNS: Hidden features of a tile.
        DEPTH: Features that are multiplied at once.
        GROUP: Tiles that go through the columns together: they share weights in the L2 cache.
    """
    tile, column = _place(Count, tl.cdiv(inner, COLUMNS), GROUP)
    if tile >= 0:
        expert, row, real = _rows(Tiles, tile, ROWS)
        n, deep = column * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
        from_row = tl.minimum(n, inner - 1) * features
        token = tl.load(Order + row) // slots
        x_at = X + (token.to(tl.int64) * features)[:, None] + deep[None, :]
        skipped = expert.to(tl.int64) * inner * features
        up_at = Up + skipped + from_row[None, :] + deep[:, None]
        gate_at = Gate + skipped + from_row[None, :] + deep[:, None]
        acc = tl.zeros((ROWS, COLUMNS), tl.float32)
        gate = tl.zeros((ROWS, COLUMNS), tl.float32)
        for at in range(0, features, DEPTH):
            there = deep < features - at
            x = tl.load(x_at + at, mask=there[None, :], other=0.0)
            acc = tl.dot(x, tl.load(up_at + at, mask=there[:, None], other=0.0), acc)
            if GATED:
                gate = tl.dot(x, tl.load(gate_at + at, mask=there[:, None], other=0.0), gate)
        hidden, gates = _halves(acc), _halves(gate)
        for half in tl.static_range(2):
            n = column * COLUMNS + half * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
            shown = (n < inner) & (biased != 0)
            bias = tl.load(UpBias + expert * inner + n, mask=shown, other=0.0).to(tl.float32)
            made = _activated(hidden[half] + bias[None, :], activation)
            if GATED:
                bias = tl.load(GateBias + expert * inner + n, mask=shown, other=0.0).to(tl.float32)
                made *= gates[half] + bias[None, :]
            out = Hidden + (row.to(tl.int64) * inner)[:, None] + n[None, :]
            tl.store(
                out, made.to(Hidden.dtype.element_ty), mask=real[:, None] & (n < inner)[None, :]
            )


@triton.jit
def down(
    Hidden,
    Down,
    DownBias,
    Gates,
    Order,
    Tiles,
    Count,
    Parts,
    pairs,
    inner,
    features,
    span,
    biased,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write a tile of ``gate · (Hidden downᵀ + bias)`` over a part of the hidden features.

    Args:
        Hidden: ``[pairs, inner]`` by place.
        Down: ``[experts, features, inner]``.
        DownBias: ``[experts, features]``; read if ``biased``.
        Gates: Float32 ``[pairs]``.
        Order: As :func:`route` wrote it, like Tiles and Count.
        Parts: Float32 ``[parts, pairs, features]`` by pair, written.
        span: Hidden features of a part, a multiple of DEPTH.
        COLUMNS: Features of a tile.
        DEPTH: As in :func:`up`, like GROUP.
    """
    tile, column = _place(Count, tl.cdiv(features, COLUMNS), GROUP)
    if tile >= 0:
        part = tl.program_id(1)
        expert, row, real = _rows(Tiles, tile, ROWS)
        n, deep = column * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
        pair = tl.load(Order + row)
        from_row = tl.minimum(n, features - 1) * inner
        hidden_at = Hidden + (row.to(tl.int64) * inner)[:, None] + deep[None, :]
        down_at = Down + expert.to(tl.int64) * features * inner + from_row[None, :] + deep[:, None]
        acc = tl.zeros((ROWS, COLUMNS), tl.float32)
        for at in range(part * span, tl.minimum((part + 1) * span, inner), DEPTH):
            there = deep < inner - at
            hidden = tl.load(hidden_at + at, mask=there[None, :], other=0.0)
            acc = tl.dot(hidden, tl.load(down_at + at, mask=there[:, None], other=0.0), acc)
        shown = (n < features) & (biased != 0) & (part == 0)
        bias = tl.load(DownBias + expert * features + n, mask=shown, other=0.0)
        acc = (acc + bias.to(tl.float32)[None, :]) * tl.load(Gates + pair)[:, None]
        to = part.to(tl.int64) * pairs + pair
        out = Parts + (to * features)[:, None] + n[None, :]
        tl.store(out, acc, mask=real[:, None] & (n < features)[None, :])


@triton.jit
def combine(Parts, Experts, Out, pairs, slots, parts, features, experts, BLOCK: tl.constexpr):
    """Write features of one token: the sum over its slots, in their order, and over parts.

    Args:
        Parts: As :func:`down` wrote them.
        Experts: Int64 ``[tokens · slots]``. One that does not exist makes the token NaN.
        Out: ``[tokens, features]``, written.
        BLOCK: Features of a program.
    """
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in range(slots):
        pair = token * slots + slot
        expert = tl.load(Experts + pair)
        if (expert < 0) | (expert >= experts):
            total += float("nan")
        else:
            for _ in range(parts):
                total += tl.load(Parts + pair * features + n, mask=n < features, other=0.0)
                pair += pairs
    tl.store(Out + token * features + n, total.to(Out.dtype.element_ty), mask=n < features)


@triton.jit
def _place(Count, columns, GROUP: tl.constexpr):
    """Tile and column of this program; the tile is -1 where there is none.

    Tiles of a group are neighbours in time, then columns: tiles of one expert find its weights in
    the cache, and columns the rows of the group.
    """
    count = tl.load(Count)
    which = tl.program_id(0)
    first = which // (GROUP * columns) * GROUP
    size = tl.maximum(tl.minimum(count - first, GROUP), 1)
    within = which - first * columns
    tile = tl.where(which < count * columns, first + within % size, -1)
    return tile, within // size


@triton.jit
def _rows(Tiles, tile, ROWS: tl.constexpr):
    """Expert of a tile, its places, and which of them are real; others repeat the last one."""
    expert = tl.load(Tiles + tile * 3)
    row = tl.load(Tiles + tile * 3 + 1) + tl.arange(0, ROWS)
    end = tl.load(Tiles + tile * 3 + 2)
    return expert, tl.minimum(row, end - 1), row < end


@triton.jit
def _halves(x):
    """The left and the right half: what is done to one after the other takes fewer registers."""
    return x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1).split()


@triton.jit
def _activated(x, code):
    """What ``sparsecc.ops.activations`` says, by the place of the activation there."""
    if code == 1:
        x = tl.maximum(x, 0.0, tl.PropagateNan.ALL)
    elif code == 2:
        x = tl.clamp(x, 0.0, 6.0, tl.PropagateNan.ALL)
    elif code == 3:
        x = x * _hardsigmoid(x)
    elif code == 4:
        x = x * tl.sigmoid(x)
    elif code == 5:
        x = 0.5 * x * (1.0 + tl.math.erf(x * _SQRT_HALF))
    elif code == 6:  # (1 + tanh u) / 2 is the sigmoid of 2 u
        x = x * tl.sigmoid((x + x * x * x * _TANH_CUBIC) * _TWICE_TANH_SCALE)
    elif code == 7:
        x = tl.sigmoid(x)
    elif code == 8:
        x = _hardsigmoid(x)
    return x


@triton.jit
def _hardsigmoid(x):
    return tl.clamp(x / 6.0 + 0.5, 0.0, 1.0, tl.PropagateNan.ALL)
