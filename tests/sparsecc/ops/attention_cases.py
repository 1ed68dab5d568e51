"""Attentions drawn for tests: shapes, rules, blocks and masks of every kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sparsecc import ops
from tests.sparsecc.ops.one_op import feeds_of, model_of

TOKENS = st.integers(1, 45)
DIMS = st.integers(1, 20)


@dataclass(frozen=True)
class Case:
    """Arrays by name of input, in float64 where they are numbers, and the attributes."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def op_type(self) -> str:
        return ops.attention_variant(blocks="index" in self.arrays, mask="mask" in self.arrays)

    def wanted(self) -> np.ndarray:
        a = self.arrays
        blocks = (a["index"], a["grid"].tolist()) if "index" in a else None
        return ops.attend(
            a["Q"], a["K"], a["V"], **self.attributes, blocks=blocks, mask=a.get("mask")
        )

    def feeds(self) -> dict[str, np.ndarray]:
        return feeds_of(self.arrays)

    def model(self, opset: int, fixed: tuple[str, ...] = ("grid",)) -> Any:
        """A model of the op alone; the inputs named are initializers."""
        feeds = self.feeds()
        node = helper.make_node(
            self.op_type, list(feeds), ["Y"], name="att", domain=ops.DOMAIN, **self.attributes
        )
        y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, feeds["Q"].shape)
        return model_of(node, feeds, y, opset, fixed)


@st.composite
def rules(draw: st.DrawFn, most: int) -> dict[str, int]:
    far = st.just(ops.UNBOUNDED)
    side = st.one_of(far, st.integers(-3, most))
    return {"left": draw(side), "right": draw(side), "sinks": draw(st.sampled_from([0, 0, 1, 5]))}


@st.composite
def kept(
    draw: st.DrawFn, rng: np.random.Generator, heads: int, queries: int, keys: int
) -> dict[str, np.ndarray]:
    """An index and its grid; the end of the index may be -1."""
    rows, columns = draw(st.sampled_from([(1, 1), (16, 16), (8, 24), (5, 3), (64, 64)]))
    of = draw(st.sampled_from([1, heads]))
    grid = (of, math.ceil(queries / rows), math.ceil(keys / columns), rows, columns)
    keep = rng.random(math.prod(grid[:3])) < draw(st.sampled_from([0.0, 0.3, 0.6, 1.0]))
    spare = draw(st.sampled_from([0, 0, 3]))
    index = np.concatenate([np.flatnonzero(keep), np.full(spare, -1)]).astype(np.int32)
    return {"index": index, "grid": np.array(grid, np.int64)}


@st.composite
def masks(draw: st.DrawFn, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A mask that spreads over scores of a shape: numbers, some of which hide a key."""
    ones = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    dims = [1 if one else n for one, n in zip(ones, shape[:3], strict=True)] + [shape[3]]
    mask = rng.standard_normal(dims[draw(st.integers(0, 3)) :])
    hidden = draw(st.sampled_from([-np.inf, float(np.finfo(np.float32).min), -1e5]))
    mask[rng.random(mask.shape) < draw(st.sampled_from([0.0, 0.4]))] = hidden
    if mask.ndim > 1 and draw(st.booleans()):
        mask[..., 0, :] = -np.inf
    return mask


@st.composite
def cases(
    draw: st.DrawFn,
    tokens: st.SearchStrategy[int] = TOKENS,
    dims: st.SearchStrategy[int] = DIMS,
) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    batch, shared = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads, dim = shared * draw(st.integers(1, 3)), draw(dims)
    queries, keys = draw(tokens), draw(tokens)
    arrays = {
        "Q": rng.standard_normal((batch, heads, queries, dim)),
        "K": rng.standard_normal((batch, shared, keys, dim)),
        "V": rng.standard_normal((batch, shared, keys, dim)),
    }
    if draw(st.booleans()):
        arrays |= draw(kept(rng, heads, queries, keys))
    if draw(st.booleans()):
        arrays["mask"] = draw(masks(rng, (batch, heads, queries, keys)))
    scale = draw(st.sampled_from([1.0, 0.125, float(np.float32(dim**-0.5))]))
    return Case(arrays, {"scale": scale, **draw(rules(max(queries, keys)))})
