"""Every kind of router: what is never chosen is not missed where it is left out."""

from __future__ import annotations

import pytest
import torch

from sparsecc import targets
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.experts.carry_out import carry_out
from sparsecc.passes.experts.offers import weigh
from sparsecc.passes.experts.routing import observe
from sparsecc.quality.calibration import Calibration
from tests.end_to_end import mixtures

TARGET = targets.read("x86-64-v4")


@pytest.mark.parametrize("name", ["mixtral", "llama4", "pangu", "hidream single"])
def test_what_is_not_chosen_is_not_missed(name: str) -> None:
    """All tokens alike choose the same experts, so that the model does without all others."""
    _, inputs, count = mixtures.MODELS[name]
    model, given = mixtures.model(name), inputs(2, alike=True)
    graph = capture(model, given)
    run(pipeline.EXACT_BEFORE, graph, Context())
    feed = {str(v.name): t.numpy() for v, t in zip(graph.graph.inputs, given, strict=True)}
    seen = observe(graph, Calibration((feed,), ()), lambda *_: None)
    assert len(seen) == count
    entries = []
    for each in seen:
        needed = int((each.traffic.chosen > 0).sum())
        assert each.mixture.why == ""
        assert needed == each.mixture.least < each.mixture.count
        offers = weigh(each, [needed], TARGET, refit=False).offers
        pruned = next(offer for offer in offers if offer.said.means == "prune")
        assert pruned.said.loss < 1e-12
        assert all(
            (place >= 0) == (load > 0)
            for place, load in zip(pruned.places, each.traffic.chosen, strict=True)
        )
        entries.append(weigh(each, [needed], TARGET).chosen(lambda o: o.means == "prune", ""))
    carry_out(graph, entries)
    answers = session_of_model(graph).run(None, feed)
    with torch.no_grad():
        wanted = model(*given)
    for got, want in zip(answers, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        assert abs(got - want.numpy()).max() < 1e-5 * float(want.abs().max())
