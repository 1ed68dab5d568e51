from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.simulate.choice import Choice, objection, stages
from tests.sparsecc.simulate.described import cluster, model


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2))
def test_stages_have_all_layers_as_evenly_as_it_goes(layers, pipeline, virtual, predictors):
    one = model(layers=layers, predictors=predictors, dense_layers=min(2, layers))
    parts = pipeline * virtual
    if parts > len(one.kinds()):
        return
    found = stages(one, Choice(pipeline=pipeline, virtual=virtual))
    assert sorted(kind for stage in found for kind in stage.layers) == sorted(one.kinds())
    counts = [len(stage.layers) for stage in found]
    assert max(counts) - min(counts) <= virtual
    assert [stage.first for stage in found] == [True] + [False] * (pipeline - 1)
    assert [stage.last for stage in found] == [False] * (pipeline - 1) + [True]
    assert found[-1].layers[-1] == one.kinds()[-1]


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        (Choice(tensor=3), "3 × 1 does not divide 8 devices"),
        (Choice(pipeline=8, virtual=2), "8 × 2 parts are more than 8 layers"),
        (Choice(tensor=2, expert=8), "4 data-parallel groups are no multiple of 8"),
        (Choice(micro_batch=16), "a batch of 64 is no multiple of 8 × 16"),
        (Choice(virtual=2), "64 micro-batches|8 micro-batches are no multiple of 1"),
        (Choice(expert=4, exchange="hierarchical"), "4 devices with experts are in one node"),
    ],
)
def test_what_does_not_go_together_is_said(choice, why):
    import re

    assert re.match(why, objection(choice, model(), cluster()) or "")


def test_what_goes_together_has_no_objection():
    assert objection(Choice(tensor=2, pipeline=2, virtual=2), model(), cluster()) is None
    assert objection(Choice(expert=8, exchange="hierarchical"), model(), cluster()) is None
    assert "3 heads" in (objection(Choice(tensor=2), model(attention=HEADS), cluster()) or "")
    assert "15 experts" in (objection(Choice(expert=2), model(experts=15), cluster()) or "")


HEADS = {"heads": 3, "key_dim": 32, "value_dim": 32}
