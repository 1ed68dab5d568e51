"""AttentionBlocks: its meaning, its body in ONNX Runtime and in torch; what is wrong is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import ops
from sparsecc.ops.attention_search import PARTS, RECALL, block_masses, choose_blocks, kept_counts
from sparsecc.passes.base import Context
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.verifier import VerificationError, verify_model
from sparsecc.passes.weights.to_dense import twin_of
from tests.sparsecc.ops.search_cases import Search, searches


def plain(**changes: Any) -> Search:
    """Two heads of 12 tokens in blocks of 4 x 4; inputs and attributes by name."""
    rng = np.random.default_rng(0)
    arrays = {
        "Q": rng.standard_normal((1, 2, 12, 4)),
        "K": rng.standard_normal((1, 2, 12, 4)),
        "index": np.full(18, -1, np.int32),
        "step": np.array([3]),
        "grid": np.array([2, 3, 3, 4, 4]),
    }
    attributes = {"scale": 0.5, "full": 2, "searches": [4], "sparsity": 0.5, "words": [0, 0]}
    for name, value in changes.items():
        (arrays if name in arrays else attributes)[name] = value
    return Search(arrays, attributes)


def computed(case: Search, proto: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString())
    names = {each.name for each in session.get_inputs()}
    (got,) = session.run(None, {k: v for k, v in case.feeds().items() if k in names})
    return np.asarray(got)


@given(case=searches(), opset=st.sampled_from([13, 17, 18, 21, 23]))
def test_the_body_computes_the_numpy_meaning(case: Search, opset: int) -> None:
    case.check(computed(case, case.model(opset)))


@given(case=searches())
def test_masses_of_a_row_of_blocks_sum_to_its_rows(case: Search) -> None:
    a, rows = case.arrays, case.grid[3]
    masses = block_masses(a["Q"], a["K"], case.grid, case.attributes["scale"])
    batch, _, queries, _ = a["Q"].shape
    sizes = np.minimum(rows, queries - rows * np.arange(case.grid[1]))
    np.testing.assert_allclose(
        masses.sum(axis=-1), batch * np.broadcast_to(sizes, masses.shape[:2])
    )


@given(case=searches())
def test_masses_are_those_of_a_softmax(case: Search) -> None:
    """Row by row, from the definition."""
    a, (heads, down, across, rows, columns) = case.arrays, case.grid
    share, masses = heads // a["K"].shape[1], np.zeros((heads, down, across))
    for b, h, i in np.ndindex(*a["Q"].shape[:3]):
        scores = case.attributes["scale"] * (a["K"][b, h // share] @ a["Q"][b, h, i])
        weights = np.exp(scores - scores.max())
        for j, weight in enumerate(weights / weights.sum()):
            masses[h, i // rows, j // columns] += weight
    got = block_masses(a["Q"], a["K"], case.grid, case.attributes["scale"])
    np.testing.assert_allclose(got, masses, atol=1e-12)


def test_a_model_keeps_all_then_searches_then_keeps_what_it_found() -> None:
    case, index = plain(words=[1, 0]), np.full(18, -1, np.int32)
    session = ort.InferenceSession(case.model(17).SerializeToString())
    feeds, counts, rng = case.feeds(), [], np.random.default_rng(1)
    for step in range(6):
        feeds["Q"] = rng.standard_normal(feeds["Q"].shape).astype(np.float32)
        feeds |= {"index": index, "step": np.array([step])}
        before = index
        (index,) = session.run(None, {k: v for k, v in feeds.items() if k != "grid"})
        counts.append(int(np.count_nonzero(index >= 0)))
        if step in (3, 5):
            np.testing.assert_array_equal(index, before)
        if step == 2:  # all is there, but it was not found: it goes on
            np.testing.assert_array_equal(index, before)
    assert counts[0] == counts[1] == counts[2] == counts[3] == 18
    assert counts[4] == counts[5] < 18


def test_an_empty_index_is_searched_where_one_is_needed() -> None:
    got = plain().wanted()
    assert 0 < np.count_nonzero(got >= 0) < 18
    assert not (plain(step=np.array([1])).wanted() < 0).any()


def test_no_sparsity_keeps_every_block() -> None:
    for words in ([0, 0], [5, 5]):
        case = plain(sparsity=0.0, words=words)
        np.testing.assert_array_equal(computed(case, case.model(17)), np.arange(18))


@given(
    masses=st.integers(0, 9999),
    sparsity=st.sampled_from([0.0, 0.2, 0.34, 0.8, 0.9]),
    heads=st.integers(1, 7),
)
def test_heads_that_hold_nearly_all_give_to_those_that_do_not(
    masses: int, sparsity: float, heads: int
) -> None:
    rng, free = np.random.default_rng(masses), 20
    sharp = rng.choice([0.1, 5.0, 30.0], (heads, 1, 1))
    drawn = np.exp(sharp * rng.random((heads, 3, free)))
    drawn *= 4 / drawn.sum(axis=-1, keepdims=True)
    kept = choose_blocks(drawn, (12, 12, free), (heads, 3, free, 4, 1), sparsity, (0, 0))
    few, most, many = kept_counts(sparsity, free)
    counts = kept.sum(axis=-1)
    assert (counts == counts[:, :1]).all()
    held = np.sort(drawn, axis=-1)[..., ::-1][..., :most].sum(axis=(1, 2))
    recall = np.floor(held / 12 * PARTS + 0.5)
    count = min(int((recall > RECALL).sum()), heads // 2)
    order = sorted(range(heads), key=lambda head: (-recall[head], head))
    wanted = dict.fromkeys(order, most) | dict.fromkeys(order[:count], few)
    wanted |= dict.fromkeys(order[heads - count :], many)
    assert counts[:, 0].tolist() == [wanted[head] for head in range(heads)]
    assert abs(few + many - 2 * most) <= 1


def test_equal_masses_keep_the_lower_blocks_and_move_the_lower_heads() -> None:
    case = plain(Q=np.zeros((1, 2, 12, 4)), sparsity=0.34)
    case.arrays["Q"][:] = 0
    got = case.wanted()
    np.testing.assert_array_equal(computed(case, case.model(17)), got)
    kept = np.zeros(18, bool)
    kept[got[got >= 0]] = True
    assert kept.reshape(2, 3, 3).sum(axis=(0, 1)).tolist() == [6, 6, 0]


def test_heads_that_hold_the_same_but_for_rounding_move_by_number() -> None:
    masses = np.full((4, 2, 10), 1e-7)
    masses[:, :, 3] = 4 - 1e-6 * np.arange(4)[:, None]
    kept = choose_blocks(masses, (8, 8, 10), (4, 2, 10, 4, 1), 0.5, (0, 0))
    few, _, many = kept_counts(0.5, 10)
    assert kept.sum(axis=-1)[:, 0].tolist() == [few, few, many, many]


def test_what_is_no_number_leaves_a_sound_index() -> None:
    case = plain()
    case.arrays["Q"][0, 0, 2] = np.nan
    got = computed(case, case.model(17))
    count = int(np.count_nonzero(got >= 0))
    assert count
    assert np.all(np.diff(got[:count]) > 0)


@given(case=searches(st.integers(1, 12)))
def test_the_twin_has_standard_ops_alone_and_computes_the_same(case: Search) -> None:
    model = ir.from_proto(case.model(17))
    verify_model(model, "the test")
    twin = twin_of(model)
    assert not any(ops.is_ours(node) for node in twin.graph.all_nodes())
    verify_model(twin, "the twin")
    case.check(computed(case, ir.to_proto(twin)))


def test_the_shape_and_the_type_are_inferred() -> None:
    model = ir.from_proto(plain().model(17))
    model.graph.inputs[0].shape = ir.Shape(["batch", 2, 12, 4])
    made = model.graph.outputs[0]
    made.shape = made.type = None
    ShapeInference().call(model, Context())
    assert (str(made.shape), made.dtype) == ("[18]", ir.DataType.INT32)


WRONG = {
    "heads of the grid": ({"grid": np.array([1, 3, 3, 4, 4])}, "not of 2 heads"),
    "heads of keys": ({"K": np.ones((1, 3, 12, 4))}, "2 heads of queries for 3"),
    "features": ({"K": np.ones((1, 2, 12, 3))}, "disagree in dimension 3"),
    "cover": ({"grid": np.array([2, 3, 2, 4, 4])}, "do not cover 12 keys"),
    "no blocks": ({"grid": np.array([2, 0, 3, 4, 4])}, "do not cover 12 queries"),
    "length": ({"index": np.full(17, -1, np.int32)}, r"index has the shape \[17\]"),
    "type": ({"index": np.full(18, -1)}, "index is INT64"),
    "step": ({"step": np.array([1, 2])}, r"step has the shape \[2\]"),
    "sparsity": ({"sparsity": 1.0}, "expected 0 or more and less than 1"),
    "full": ({"full": -1}, "negative"),
    "order": ({"searches": [3, 1]}, "do not ascend"),
    "words": ({"words": [1]}, "before and behind"),
    "scale": ({"scale": float("nan")}, "the scale is nan"),
    "kind": ({"full": 1.5}, "full is no int"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_contradicts_itself_is_found(what: str) -> None:
    changes, said = WRONG[what]
    model = ir.from_proto(plain(**changes).model(17))
    with pytest.raises(VerificationError, match=said):
        verify_model(model, "the test")


@pytest.mark.parametrize("index", [[1, 0], [-2], [18], [3, -1, 4]])
def test_a_wrong_constant_index_is_found(index: list[int]) -> None:
    padded = np.array([*index, *[-1] * (18 - len(index))], np.int32)
    case = plain(index=padded)
    with pytest.raises(VerificationError, match="not ascending"):
        verify_model(ir.from_proto(case.model(17, ("grid", "index"))), "the test")
    with pytest.raises(ValueError, match="not ascending"):
        case.wanted()


def test_the_schema_says_what_the_op_has() -> None:
    schema = ops.schema(ops.SEARCH)
    assert [each.name for each in schema.inputs] == ["Q", "K", "index", "step", "grid"]
    assert {*schema.attributes} == {"scale", "full", "searches", "sparsity", "words"}
    assert schema.outputs[0].type_str == "tensor(int32)"
