"""Searches of blocks drawn for tests: sizes, words, steps and indices of every kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from sparsecc import ops
from sparsecc.ops.attention_search import PARTS, RECALL, block_masses, blocks_of_words, kept_counts
from tests.sparsecc.ops.one_op import feeds_of, model_of

TOKENS = st.integers(1, 60)
DIMS = st.integers(1, 20)
CLOSE = 1e-4
"""Masses that differ by less, of their row's queries, may come in another order in float32."""


@dataclass(frozen=True)
class Search:
    """Arrays by name of input, in float64 where they are numbers, and the attributes."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]

    @property
    def grid(self) -> list[int]:
        return [int(number) for number in self.arrays["grid"]]

    @property
    def step(self) -> int:
        return int(self.arrays["step"][0])

    @property
    def searches(self) -> bool:
        late = self.step >= self.attributes["full"] and self.arrays["index"][0] == -1
        return bool(late or self.step in self.attributes["searches"])

    def wanted(self) -> np.ndarray:
        a = self.arrays
        return ops.next_blocks(a["Q"], a["K"], a["index"], self.step, self.grid, **self.attributes)

    def feeds(self) -> dict[str, np.ndarray]:
        return feeds_of(self.arrays)

    def model(self, opset: int, fixed: tuple[str, ...] = ("grid",)) -> Any:
        """A model of the op alone; the inputs named are initializers."""
        feeds = self.feeds()
        node = helper.make_node(ops.SEARCH, list(feeds), ["Y"], name="search", domain=ops.DOMAIN)
        for name, value in self.attributes.items():
            kind = AttributeProto.INTS if isinstance(value, list) else None
            node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
        y = helper.make_tensor_value_info("Y", TensorProto.INT32, feeds["index"].shape)
        return model_of(node, feeds, y, opset, fixed)

    def check(self, got: np.ndarray) -> None:
        """Compare with the meaning in float64; masses as good as equal may change places."""
        assert got.dtype == np.int32
        assert got.shape == (math.prod(self.grid[:3]),)
        wanted = self.wanted()
        if not self.searches or np.array_equal(got, wanted):
            np.testing.assert_array_equal(got, wanted)
            return
        count = int(np.count_nonzero(got >= 0))
        assert np.all(np.diff(got[:count]) > 0)
        assert np.all(got[count:] == -1)
        kept = np.zeros(math.prod(self.grid[:3]), bool)
        kept[got[:count]] = True
        self._check_kept(kept.reshape(self.grid[:3]))

    def _check_kept(self, kept: np.ndarray) -> None:
        a, (_, _, _, rows, columns) = self.arrays, self.grid
        batch, _, queries, _ = a["Q"].shape
        down = blocks_of_words(queries, rows, self.attributes["words"])
        across = blocks_of_words(a["K"].shape[2], columns, self.attributes["words"])
        masses = block_masses(a["Q"], a["K"], self.grid, self.attributes["scale"])
        assert kept[:, down].all()
        assert kept[:, :, across].all()
        free, free_masses = kept[:, ~down][:, :, ~across], masses[:, ~down][:, :, ~across]
        counts = free.sum(axis=-1)
        by_head = counts[:, 0]
        assert np.array_equal(counts, np.broadcast_to(by_head[:, None], counts.shape))
        for mass, chosen in zip(
            free_masses.reshape(-1, free.shape[-1]), free.reshape(-1, free.shape[-1]), strict=True
        ):
            most = np.sort(mass)[::-1][: chosen.sum()].sum()
            assert mass[chosen].sum() >= most - CLOSE * batch * rows
        self._check_heads(by_head, masses, down, across)

    def _check_heads(
        self, by_head: np.ndarray, masses: np.ndarray, down: np.ndarray, across: np.ndarray
    ) -> None:
        """That heads keep more or fewer as the mass they hold wants it, where that is clear."""
        few, most, many = kept_counts(self.attributes["sparsity"], int(np.count_nonzero(~across)))
        always = down[:, None] | across
        free = np.where(always, -1, masses)
        best = np.sort(free, axis=-1)[..., ::-1][..., :most]
        held = np.where(always, masses, 0).sum(axis=(1, 2)) + np.maximum(best, 0).sum(axis=(1, 2))
        total = self.arrays["Q"].shape[0] * self.arrays["Q"].shape[2]
        limit, near = (RECALL + 0.5) / PARTS * total, (CLOSE + 1 / PARTS) * total
        half = len(masses) // 2
        low, high = (min(int(np.count_nonzero(held > limit + by)), half) for by in (near, -near))
        assert low <= np.count_nonzero(by_head == few) or few == most
        assert np.count_nonzero(by_head == few) <= high or few in (most, many)
        if few < most < many:
            assert np.count_nonzero(by_head == few) == np.count_nonzero(by_head == many)
            for more, fewer in ((many, most), (most, few), (many, few)):
                lower, upper = held[by_head == more], held[by_head == fewer]
                assert not len(lower) or not len(upper) or lower.max() <= upper.min() + near


@st.composite
def searches(
    draw: st.DrawFn,
    tokens: st.SearchStrategy[int] = TOKENS,
    dims: st.SearchStrategy[int] = DIMS,
) -> Search:
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    batch, shared = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads, dim = shared * draw(st.integers(1, 3)), draw(dims)
    queries, keys = draw(tokens), draw(tokens)
    rows, columns = draw(st.sampled_from([(1, 1), (16, 16), (8, 24), (5, 3), (64, 64), (7, 7)]))
    grid = (heads, math.ceil(queries / rows), math.ceil(keys / columns), rows, columns)
    blocks = math.prod(grid[:3])
    kept = np.flatnonzero(rng.random(blocks) < draw(st.sampled_from([0.0, 0.5])))
    index = np.concatenate([kept, np.full(blocks - len(kept), -1)]).astype(np.int32)
    sharp = draw(st.sampled_from([0.3, 2.0]))
    arrays = {
        "Q": sharp * rng.standard_normal((batch, heads, queries, dim)),
        "K": rng.standard_normal((batch, shared, keys, dim)),
        "index": index,
        "step": np.array([draw(st.integers(0, 6))]),
        "grid": np.array(grid, np.int64),
    }
    return Search(
        arrays,
        {
            "scale": draw(st.sampled_from([1.0, 0.125, float(np.float32(dim**-0.5))])),
            "full": draw(st.sampled_from([0, 2, 5])),
            "searches": draw(st.sampled_from([[], [0], [2, 4], [1, 3, 5]])),
            "sparsity": float(np.float32(draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 0.95])))),
            "words": draw(st.sampled_from([[0, 0], [3, 0], [0, 5], [2, 9]])),
        },
    )
