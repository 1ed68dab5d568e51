"""A mixture of experts in every artifact: what the body of the op computes in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from torch import nn

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.engines import why_not_here
from sparsecc.errors import ModelError
from sparsecc.targets import TARGETS
from sparsecc.verify import verify
from tests.end_to_end import moe
from tests.end_to_end.backends import BACKENDS
from tests.passes.moe import forms, test_contrib
from tests.sparsecc.ops.moe_cases import Case, drawn, of_codes

TOLERANCE = 1e-5
RUNTIME = BACKENDS["onnxruntime"]


def wanted(proto: Any, feed: dict[str, Any]) -> np.ndarray:
    (y,) = ort.InferenceSession(proto.SerializeToString()).run(None, feed)
    return y


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_artifact_computes_the_body(backend: str) -> None:
    if reason := why_not_here(TARGETS[BACKENDS[backend]["target"]]) if backend == "arm64" else None:
        pytest.skip(reason)
    proto = moe.layer()
    compiled = sparsecc.compile(proto, **BACKENDS[backend])
    assert any("moe" in region.nodes for region in compiled.manifest.regions)
    for tokens in (1, 3, 70):
        feed = moe.feeds(tokens)
        got = compiled.run(feed)["y"]
        np.testing.assert_allclose(got, wanted(proto, feed), rtol=0, atol=TOLERANCE)
    assert verify(compiled.path)["ok"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32)])
def test_every_artifact_computes_with_codes(backend: str, bits: int, group: int | None) -> None:
    if reason := why_not_here(TARGETS[BACKENDS[backend]["target"]]) if backend == "arm64" else None:
        pytest.skip(reason)
    case = drawn(tokens=1, experts=6, chosen=2, features=48, hidden=32, gated=True, bias=True)
    proto = moe.with_router(of_codes(case, bits, group))
    compiled = sparsecc.compile(proto, **BACKENDS[backend])
    (row,) = (row for row in compiled.manifest.layers if row["name"] == "moe")
    assert row["kernel"] == f"moe-16x{8 // bits}-int{bits}"
    for tokens in (1, 70):
        feed = moe.feeds(tokens, 48)
        got = compiled.run(feed)["y"]
        np.testing.assert_allclose(got, wanted(proto, feed), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", [{"gated": False}, {"bias": False}, {"sizes": (20, 10)}])
def test_every_form_in_onnx_runtime(form: dict[str, Any]) -> None:
    """Sizes that no block of 16 rows divides too."""
    proto = moe.layer(**form)
    compiled, feed = sparsecc.compile(proto, **RUNTIME), moe.feeds(9, *form.get("sizes", ())[:1])
    (region,) = compiled.manifest.regions
    assert "moe" in region.nodes
    got = compiled.run(feed)["y"]
    np.testing.assert_allclose(got, wanted(proto, feed), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("block", [(16, 1), (4, 1)])
def test_pruned_experts_run_sparse(block: tuple[int, int]) -> None:
    case = drawn(tokens=1, experts=4, chosen=2, features=32, hidden=64, activation="relu")
    rng = np.random.default_rng(0)
    for name in ("up", "down"):
        experts, rows, columns = case.arrays[name].shape
        kept = rng.random((experts, rows // block[0], columns)) < 0.2
        case.arrays[name] *= np.repeat(kept, block[0], axis=1)
    proto = moe.with_router(Case(case.activation, case.arrays))
    compiled, feed = sparsecc.compile(proto, **RUNTIME), moe.feeds(40)
    row = next(row for row in compiled.manifest.layers if row["name"] == "moe")
    assert row["kernel"] == f"moe-{block[0]}x{block[1]}"
    assert 0.15 < row["density"] < 0.25
    got = compiled.run(feed)["y"]
    np.testing.assert_allclose(got, wanted(proto, feed), rtol=0, atol=TOLERANCE)


def test_two_threads_give_the_same_bytes() -> None:
    compiled = sparsecc.compile(moe.layer(), **RUNTIME)
    model, library = compiled.path / "model.onnx", next(compiled.path.glob("libsparsecc*"))
    sessions = [open_session(model, library=library, threads=threads) for threads in (1, 2)]
    for tokens in (1, 70):
        one, two = (session.run(None, moe.feeds(tokens))[0] for session in sessions)
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("backend", ["onnxruntime", "bundle", "tvm", "wasm"])
def test_what_cannot_be_routed_is_an_error_that_names_the_node(backend: str) -> None:
    case = drawn(tokens=5, experts=3, chosen=2, features=16, hidden=16)
    compiled = sparsecc.compile(case.model(), **BACKENDS[backend])
    feed = {name: case.feeds()[name] for name in ("X", "experts", "gates")}
    feed["experts"] = np.where(np.arange(10).reshape(5, 2) == 7, 3, feed["experts"])
    with pytest.raises(Exception, match=r"moe.*expert that does not exist"):
        compiled.run(feed)
    feed["experts"] = case.feeds()["experts"]
    feed["gates"] = np.where(np.arange(10).reshape(5, 2) == 7, np.nan, feed["gates"])
    with pytest.raises(Exception, match=r"moe.*not a number"):
        compiled.run(feed)


def refuses(compiled: sparsecc.Compiled, feed: dict[str, Any], name: str) -> None:
    """Runs on a feed, then with a number in the named input that is none, and checks the error."""
    assert all(np.isfinite(made).all() for made in compiled.run(feed).values())
    feed[name].reshape(-1, feed[name].shape[-1])[1, 0] = np.nan
    with pytest.raises(ModelError, match=r"layer '.+'.*gate of a chosen expert is not a number"):
        compiled.run(feed)


@pytest.mark.parametrize("form", [forms.IndexAdd, forms.Batched])
def test_a_router_that_gives_no_number_is_an_error_in_every_form(form: type[nn.Module]) -> None:
    tokens = forms.tokens()
    compiled = sparsecc.compile(form().eval(), example_inputs=(tokens,), **RUNTIME)
    name = compiled.session.get_inputs()[0].name
    refuses(compiled, {name: tokens.numpy().copy()}, name)


@pytest.mark.parametrize("backend", ["onnxruntime", "bundle", "tvm", "wasm"])
def test_scores_that_are_no_numbers_are_an_error(backend: str) -> None:
    """Whichever expert the TopK of a runtime chooses for them."""
    proto = test_contrib.model(test_contrib.weights(), k=2, activation_type="silu")
    refuses(sparsecc.compile(proto, **BACKENDS[backend]), test_contrib.feeds(proto), "scores")
