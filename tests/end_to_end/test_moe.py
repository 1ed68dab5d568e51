"""A mixture of experts in every artifact: what the body of the op computes in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.engines import why_not_here
from sparsecc.targets import TARGETS
from sparsecc.verify import verify
from tests.end_to_end import moe
from tests.end_to_end.backends import BACKENDS
from tests.sparsecc.ops.moe_cases import Case, drawn

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


@pytest.mark.parametrize("backend", ["onnxruntime", "bundle", "wasm"])
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
