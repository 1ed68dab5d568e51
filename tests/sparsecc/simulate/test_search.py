from __future__ import annotations

import json

import pytest

from sparsecc.errors import ReportError, SimulationError
from sparsecc.simulate import Choice, draw, page, search, simulate
from sparsecc.simulate.choice import objection
from tests.sparsecc.simulate.described import CLUSTER, cluster, model

DEVICE = CLUSTER["device"]


def brute_force(one, where):
    """The least time over all degrees, written plainly."""
    best = None
    for tensor in (1, 2, 4):
        for pipeline in (1, 2, 4, 8):
            for virtual in (1, 2, 4):
                for expert in (1, 2, 4, 8, 16):
                    for micro_batch in (1, 2, 4, 8):
                        for exchange in ("flat", "hierarchical"):
                            for recompute in ("none", "partial", "full"):
                                choice = Choice(
                                    tensor=tensor,
                                    pipeline=pipeline,
                                    virtual=virtual,
                                    expert=expert,
                                    micro_batch=micro_batch,
                                    exchange=exchange,
                                    recompute=recompute,
                                )
                                if objection(choice, one, where):
                                    continue
                                outcome = simulate(one, where, choice)
                                if outcome.fits and (best is None or outcome.seconds < best):
                                    best = outcome.seconds
    return best


@pytest.mark.parametrize("memory", [1e9, 1.5e8, 1.22e8])
def test_the_best_is_the_best_of_all(memory):
    where = cluster(device=DEVICE | {"memory": memory})
    found = search(model(), where)
    assert found.outcomes[0].seconds == brute_force(model(), where)
    times = [each.seconds for each in found.outcomes]
    assert times == sorted(times)
    assert all(each.memory.total <= memory for each in found.outcomes)


def test_less_memory_is_never_faster():
    sizes = (1e9, 1.4e8, 1.22e8)
    best = [search(model(), cluster(device=DEVICE | {"memory": m})).outcomes[0] for m in sizes]
    assert best[0].seconds <= best[1].seconds <= best[2].seconds


def test_what_is_given_is_kept():
    found = search(model(), cluster(), {"tensor": 2, "recompute": "full", "sharded": False})
    assert found.outcomes
    choices = [each.choice for each in found.outcomes]
    assert {(c.tensor, c.recompute, c.sharded) for c in choices} == {(2, "full", False)}


def test_what_does_not_fit_is_told():
    where = cluster(device=DEVICE | {"memory": 1e3})
    found = search(model(), where)
    assert not found.outcomes
    assert found.too_large > 0
    choice, needs = found.smallest
    assert needs.total > 1e3
    words = draw.nothing_fits(where, found)
    assert str(choice) in words
    assert "of 1.0 kB of a device" in words
    assert words in page.to_html(model(), where, found, 3)
    assert draw.to_json(model(), where, found, 3)["configurations"] == []


def test_what_cannot_be_spread_says_why():
    with pytest.raises(SimulationError, match="a batch of 1 is no multiple of"):
        search(model(batch=1), cluster(), {"pipeline": 1})


def test_pages_and_data_show_the_same_configurations(tmp_path):
    one, where = model(name="<b>bold"), cluster()
    found = search(one, where)
    text = page.to_html(one, where, found, 3)
    assert text == page.to_html(one, where, found, 3)
    assert "<b>bold" not in text
    assert text.count('<text class="strong halo"') == 3
    data = draw.to_json(one, where, found, 3)
    assert len(data["configurations"]) == 3
    for outcome, fields in zip(found.outcomes, data["configurations"], strict=False):
        assert str(outcome.choice) in text
        assert fields["seconds"] == pytest.approx(sum(fields["parts"].values()))
    json.dumps(data, allow_nan=False)
    page.write(text, tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text() == text
    with pytest.raises(ReportError, match=r"not called \.html"):
        page.write(text, tmp_path / "p.txt")
    with pytest.raises(ReportError, match="cannot write"):
        page.write(text, tmp_path / "none" / "p.html")
