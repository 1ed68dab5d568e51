import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.tiles import Rule
from sparsecc.errors import BackendError, PlanError
from sparsecc.ops.block_sparse_attention import seen_by_blocks, seen_by_rule
from sparsecc.torch.tile_attention import TileAttention
from sparsecc.torch.tile_operator import tile_attention

BLOCK = (32, 64)


def drawn(batch, heads, group, queries, keys, seed, dtype=torch.float64, grad=True):
    torch.manual_seed(seed)
    sizes = [(heads, queries)] + [(heads // group, keys)] * 2
    made = (torch.randn(batch, tokens, each, 64, dtype=dtype) for each, tokens in sizes)
    return [each.transpose(1, 2).requires_grad_(grad) for each in made]


def some(patterns, queries, keys, share, seed):
    shape = patterns, -(-queries // BLOCK[0]), -(-keys // BLOCK[1])
    return np.random.default_rng(seed).random(shape) < share


def masked(q, k, v, seen, scale):
    """Dense attention under a mask [patterns, queries, keys]; zeros where a query sees nothing."""
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    k, v = (each.repeat_interleave(group, 1) for each in (k, v))
    seen = torch.from_numpy(seen).repeat(heads // len(seen), 1, 1)
    scores = (scale * q @ k.mT).masked_fill(~seen, -torch.inf)
    return torch.nan_to_num(torch.softmax(scores, -1)) @ v, torch.logsumexp(scores, -1)


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([1, 2]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([(Rule.left, Rule.right, 0), (40, 0, 3), (-20, 90, 0)]),
    st.sampled_from([64, 128]),
    st.booleans(),
    st.integers(0, 99),
)
def test_is_dense_attention_under_the_mask_and_so_are_gradients(
    queries, keys, group, share, rule, rows, ordered, seed
):
    keys = queries if ordered else keys
    q, k, v = drawn(2, 4, group, queries, keys, seed)
    kept = some(2, queries, keys, share, seed)
    grid = [*kept.shape, *BLOCK]
    seen = seen_by_blocks(np.flatnonzero(kept), grid, queries, keys)
    seen = seen & seen_by_rule(queries, keys, *rule)
    orders = None
    if ordered:
        draws = np.random.default_rng(seed)
        orders = np.stack([draws.permutation(queries) for _ in kept])
        back = np.argsort(orders, 1)
        seen = np.stack([one[at][:, at] for one, at in zip(seen, back, strict=True)])
    attention = TileAttention(
        *(queries, keys, 64),
        kept=kept,
        block=BLOCK,
        **dict(zip(("left", "right", "sinks"), rule, strict=True)),
        orders=orders,
        rows=128 if ordered else rows,
    )
    out, sums = attention.with_sums(q, k, v, 0.1)
    wanted, wanted_sums = masked(q, k, v, seen, 0.1)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(sums, wanted_sums)
    upstream = torch.randn_like(out)
    ours = torch.autograd.grad(out, (q, k, v), upstream)
    torch.testing.assert_close(ours, torch.autograd.grad(wanted, (q, k, v), upstream))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_accepts_the_operator(dtype):
    q, k, v = drawn(1, 2, 2, 70, 90, 0, dtype)
    made = TileAttention(70, 90, 64, kept=some(2, 70, 90, 0.5, 0), block=BLOCK)
    listed = vars(made.listed(2)).values()
    torch.library.opcheck(tile_attention, (q, k, v, *listed, 0.125))


def test_compiles_as_one_graph():
    q, k, v = drawn(1, 2, 1, 130, 130, 0, torch.float32)
    made = TileAttention(130, 130, 64, kept=some(2, 130, 130, 0.5, 0), block=BLOCK)
    compiled = torch.compile(
        lambda q, k, v: made(2 * q, k, v).sin(), fullgraph=True, backend="aot_eager"
    )
    one, other = compiled(q, k, v), made(2 * q, k, v).sin()
    torch.testing.assert_close(one, other)
    upstream = torch.randn_like(one)
    torch.testing.assert_close(
        torch.autograd.grad(one, (q, k, v), upstream),
        torch.autograd.grad(other, (q, k, v), upstream),
    )


def test_output_lies_as_queries_do():
    q, k, v = drawn(1, 2, 1, 64, 64, 0, torch.float32)
    assert TileAttention(64, 64, 64)(q, k, v).stride() == q.stride()


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((1, 2, 64, 64), (1, 2, 65, 64)), "of another attention"),
        (((1, 2, 64, 64), (1, 2, 64, 32)), "of another attention"),
        (((1, 3, 64, 64), (1, 2, 64, 64)), "heads that do not fit"),
        (((2, 64, 64), (2, 64, 64)), "no attention"),
    ],
)
def test_tensors_of_another_attention(shapes, said):
    q, k = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(BackendError, match=said):
        TileAttention(64, 64, 64)(q, k, k)


def test_types_are_one_and_that_of_autocast():
    q, k, v = drawn(1, 2, 1, 64, 64, 0, torch.float32, grad=False)
    attention = TileAttention(64, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(q, k.bfloat16(), v).dtype == torch.bfloat16
    with pytest.raises(BackendError, match=r"keys torch\.bfloat16"):
        attention(q, k.bfloat16(), v)


def test_tiles_are_as_tall_as_blocks_are_alike():
    odd = np.zeros((1, 8, 8), bool)
    odd[:, np.arange(8), np.arange(8)] = True  # two rows of blocks have nothing in common
    assert TileAttention(512, 512, 64, kept=odd).tiles.rows == 64
    assert TileAttention(512, 512, 64, kept=np.ones((1, 8, 8), bool)).tiles.rows == 128
    assert TileAttention(512, 512, 64, kept=odd, rows=128).tiles.rows == 128


def test_what_no_kernel_has():
    with pytest.raises(BackendError, match="96 float16 features"):
        TileAttention(64, 64, 96)
    with pytest.raises(BackendError, match="32 queries"):
        TileAttention(64, 64, 64, rows=32)
    with pytest.raises(BackendError, match="64 queries in an order"):
        TileAttention(64, 64, 64, rows=64, orders=np.arange(64)[None])
    with pytest.raises(PlanError, match="every token once"):
        TileAttention(64, 64, 64, orders=np.zeros((1, 64), int))
