"""Block-sparse attention in every artifact: what the body of the op computes in ONNX Runtime."""

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
from tests.end_to_end import attention
from tests.end_to_end.backends import BACKENDS

TOLERANCE = 1e-5
FORMS = ({}, {"given_index": True}, {"mask": True}, {"given_index": True, "mask": True})


def wanted(made: dict[str, Any], batch: int, form: dict[str, bool]) -> np.ndarray:
    proto = attention.layer(batch=batch, **form)
    (y,) = ort.InferenceSession(proto.SerializeToString()).run(None, made)
    return y


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "constant")
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_artifact_computes_the_body(backend: str, form: dict[str, bool]) -> None:
    if reason := why_not_here(TARGETS[BACKENDS[backend]["target"]]) if backend == "arm64" else None:
        pytest.skip(reason)
    compiled = sparsecc.compile(attention.layer(batch="batch", **form), **BACKENDS[backend])
    (region,) = compiled.manifest.regions
    assert {"attention", "q_turn", "k_split", "turn_back", "merge"} <= set(region.nodes)
    for batch in (1, 3):
        feed = attention.feeds(batch, **form)
        got = compiled.run(feed)["y"]
        np.testing.assert_allclose(got, wanted(feed, batch, form), rtol=0, atol=TOLERANCE)
    assert verify(compiled.path)["ok"]


@pytest.mark.parametrize("backend", ["onnxruntime", "bundle", "wasm"])
def test_an_index_that_does_not_ascend_is_an_error_that_names_the_node(backend: str) -> None:
    compiled = sparsecc.compile(attention.layer(given_index=True), **BACKENDS[backend])
    feed = attention.feeds(given_index=True)
    feed["index"] = feed["index"][::-1].copy()
    with pytest.raises(Exception, match=r"merge.*do not ascend"):
        compiled.run(feed)


def test_two_threads_give_the_same_bytes() -> None:
    compiled = sparsecc.compile(attention.layer(), **BACKENDS["onnxruntime"])
    feed = attention.feeds()
    model = compiled.path / "model.onnx"
    library = next(compiled.path.glob("libsparsecc*"))
    one, two = (
        open_session(model, library=library, threads=threads).run(None, feed)[0]
        for threads in (1, 2)
    )
    assert one.tobytes() == two.tobytes()
