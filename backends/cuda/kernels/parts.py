"""Parts of a product added up, and inputs turned: what goes before and after other kernels."""

import triton
import triton.language as tl


@triton.jit
def add(Parts, Out, count, splits, COUNT: tl.constexpr):
    """Write ``Out[count]``, the sum of float32 ``Parts[splits, count]`` in their order."""
    at = tl.program_id(0).to(tl.int64) * COUNT + tl.arange(0, COUNT)
    total = tl.zeros((COUNT,), tl.float32)
    for _ in range(splits):
        total += tl.load(Parts + at, mask=at < count, other=0.0)
        Parts += count
    tl.store(Out + at, total.to(Out.dtype.element_ty), mask=at < count)


@triton.jit
def turn(X, Turned, tokens, columns, padded, TOKENS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write ``Turned[columns, padded]`` of ``X[tokens, columns]``, zeros behind the last token."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (token < tokens)[:, None] & (column < columns)[None, :]
    x = tl.load(X + token[:, None] * columns + column[None, :], mask=inside, other=0.0)
    place = column[:, None] * padded + token[None, :]
    tl.store(Turned + place, tl.trans(x), mask=(column < columns)[:, None])
