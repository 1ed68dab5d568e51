"""Attention that searches its blocks while it runs, in every artifact: as the bodies do it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import sparsecc
from sparsecc import ops
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.engines import why_not_here
from sparsecc.passes.base import Context
from sparsecc.passes.regions.own_views import OwnViews
from sparsecc.passes.verifier import verify_model
from sparsecc.targets import TARGETS
from sparsecc.torch import Interpreter
from tests.end_to_end import attention
from tests.end_to_end.backends import BACKENDS
from tests.end_to_end.test_block_sparse_attention import TOLERANCE

STEPS = 6
EMPTY = np.full(attention.BLOCKS, -1, np.int32)
Run = Callable[[dict[str, Any]], dict[str, Any]]


def tokens(batch: int = 1) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.standard_normal((batch, attention.TOKENS, attention.WIDTH)).astype(np.float32)


def steps(run: Run, batch: int) -> list[dict[str, Any]]:
    """The outputs of a few calls, each with the index of the one before."""
    index, made, x = EMPTY, list[dict[str, Any]](), tokens(batch)
    for step in range(STEPS):
        made.append(run({"x": (0.5 + step) * x, "index": index, "step": np.array([step])}))
        index = made[-1]["index.next"]
    return made


def session(run: ort.InferenceSession) -> Run:
    return lambda feed: dict(zip(("y", "index.next"), run.run(None, feed), strict=True))


def bodies(batch: int) -> Run:
    proto = attention.layer(batch=batch, searched=True)
    return session(ort.InferenceSession(proto.SerializeToString()))


@functools.cache
def compiled(backend: str) -> sparsecc.Compiled:
    samples = [{"x": tokens(), "index": EMPTY, "step": np.array([step])} for step in range(3)]
    model = attention.layer(batch="batch", searched=True)
    return sparsecc.compile(model, **BACKENDS[backend], sparsity="dense", calibration=samples)


def agree(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    counts = [int(np.count_nonzero(each["index.next"] >= 0)) for each in got]
    assert counts[0] == counts[1] == attention.BLOCKS > counts[2]
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(mine["index.next"], theirs["index.next"])
        scale = np.abs(theirs["y"]).max()
        np.testing.assert_allclose(mine["y"], theirs["y"], rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_artifact_computes_the_bodies(backend: str) -> None:
    if reason := why_not_here(TARGETS[BACKENDS[backend]["target"]]) if backend == "arm64" else None:
        pytest.skip(reason)
    made = compiled(backend)
    (region,) = made.manifest.regions
    inside = {"search", "attention", "q_turn", "k_split", "search/q_turn", "turn_back", "merge"}
    assert inside <= set(region.nodes)
    for batch in (1, 2):
        agree(steps(made.run, batch), steps(bodies(batch), batch))


@pytest.mark.parametrize("backend", ["onnxruntime", "bundle", "tvm", "wasm"])
def test_a_wrong_index_is_an_error_that_names_the_node(backend: str) -> None:
    index = EMPTY.copy()
    index[:2] = 3, 2
    with pytest.raises(Exception, match=r"search.*do not ascend"):
        compiled(backend).run({"x": tokens(), "index": index, "step": np.array([1])})


def test_two_threads_give_the_same_bytes() -> None:
    made = compiled("onnxruntime")
    library = next(made.path.glob("libsparsecc*"))
    one, two = (
        steps(session(open_session(made.path / "model.onnx", library=library, threads=each)), 2)
        for each in (1, 2)
    )
    for mine, other in zip(one, two, strict=True):
        assert all(mine[name].tobytes() == other[name].tobytes() for name in mine)


def test_an_index_from_outside_is_a_region_too() -> None:
    """A search that only others read: its region makes int32 alone."""
    model = ir.from_proto(attention.layer(searched=True))
    model.graph.outputs.pop(0)
    samples = [{"x": tokens(), "index": EMPTY, "step": np.array([step])} for step in range(3)]
    made = sparsecc.compile(model, target="native", sparsity="dense", calibration=samples)
    (region,) = made.manifest.regions
    assert "search" in region.nodes
    assert "attention" not in region.nodes
    feed = {"x": tokens(), "index": EMPTY, "step": np.array([2])}
    np.testing.assert_array_equal(made.run(feed)["index.next"], bodies(1)(feed)["index.next"])


def test_a_search_gets_views_of_its_own_once() -> None:
    model = ir.from_proto(attention.layer(searched=True))
    ctx = Context()
    assert OwnViews().call(model, ctx)
    assert not OwnViews().call(model, ctx)
    verify_model(model, OwnViews.name)
    search, op = (next(filter(kind, model.graph)) for kind in (ops.is_search, ops.is_attention))
    assert {*search.inputs[:2]}.isdisjoint(op.inputs)
    run = session(ort.InferenceSession(ir.to_proto(model).SerializeToString()))
    agree(steps(run, 1), steps(bodies(1), 1))


def test_the_torch_interpreter_runs_the_bodies() -> None:
    module = Interpreter(ir.from_proto(attention.layer(searched=True)))

    def run(feed: dict[str, Any]) -> dict[str, Any]:
        made = module({name: torch.from_numpy(array) for name, array in feed.items()})
        return {name: each.detach().numpy() for name, each in made.items()}

    agree(steps(run, 1), steps(bodies(1), 1))
