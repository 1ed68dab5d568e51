from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.simulate.choice import Choice, objection, stages
from sparsecc.simulate.memory import kept_numbers, memory, stage_parameters
from sparsecc.simulate.model import parameters
from tests.sparsecc.simulate.described import cluster, model

POWERS = st.sampled_from([1, 2, 4])
CHOICES = st.builds(
    Choice,
    tensor=POWERS,
    pipeline=POWERS,
    expert=POWERS,
    micro_batch=st.sampled_from([1, 2]),
    recompute=st.sampled_from(["none", "partial", "full"]),
    sharded=st.booleans(),
)
MODELS = st.builds(
    model,
    dtype=st.sampled_from(["bfloat16", "float32"]),
    shared=st.sampled_from([0, 1]),
    predictors=st.sampled_from([0, 1]),
    batch=st.just(512),
)


def devices(count):
    return cluster(nodes=max(1, count // 4), devices_per_node=min(4, count))


def fits(one, where, choice):
    return objection(choice, one, where) is None


@given(MODELS, CHOICES, st.sampled_from(["data", "tensor", "expert"]))
def test_more_devices_never_need_more_memory_each(one, choice, degree):
    count = choice.tensor * choice.pipeline * choice.expert
    wider = choice
    if degree != "data":
        wider = choice.model_copy(update={degree: 2 * getattr(choice, degree)})
    before, after = devices(count), devices(2 * count)
    if not fits(one, before, choice) or not fits(one, after, wider):
        return
    # The same data-parallel groups, or twice as many of them.
    assert memory(one, after, wider).total <= memory(one, before, choice).total * (1 + 1e-12)


@given(MODELS, CHOICES)
def test_every_number_of_the_model_is_on_some_device(one, choice):
    whole = parameters(one)[0] + len(one.kinds()) * one.norms * one.d
    plain = Choice(pipeline=choice.pipeline)
    kept = sum(sum(stage_parameters(one, plain, stage)) for stage in stages(one, plain))
    assert kept == whole


@given(MODELS, CHOICES)
def test_recomputing_more_keeps_less(one, choice):
    where = devices(choice.tensor * choice.pipeline * choice.expert)
    every = [choice.model_copy(update={"recompute": how}) for how in ("none", "partial", "full")]
    kept = [[kept_numbers(one, kind, each.recompute) for each in every] for kind in one.kinds()]
    assert all(none >= partial >= full > 0 for none, partial, full in kept)
    if fits(one, where, choice):
        totals = [memory(one, where, each).total for each in every]
        assert totals[0] >= totals[2]


def test_the_state_of_adam_is_spread_over_data_parallel_devices():
    one = model(dtype="bfloat16")
    sums = parameters(one)[0] + len(one.kinds()) * one.norms * one.d
    whole = memory(one, devices(4), Choice(sharded=False))
    assert whole.weights == 2 * sums
    assert whole.gradients == 4 * sums
    assert whole.optimizer == 12 * sums
    assert memory(one, devices(4), Choice()).optimizer == pytest.approx(3 * sums)


def test_the_first_stage_keeps_as_many_micro_batches_as_there_are_stages():
    one = model(vocabulary=1)

    def kept(pipeline, batch, virtual=1):
        where = devices(pipeline)
        choice = Choice(pipeline=pipeline, virtual=virtual)
        return memory(model(vocabulary=1, batch=batch, dense_layers=0), where, choice).activations

    assert one.layers == 8
    # Four stages of two layers, four micro-batches on their way; or fewer, where there are fewer.
    assert kept(4, 8) == pytest.approx(kept(1, 8), rel=0.01)
    assert kept(4, 2) == pytest.approx(kept(1, 8) / 2, rel=0.01)
    # Two parts each: 2 · 3 + 4 + 1 parts of one layer.
    assert kept(4, 8, virtual=2) / kept(4, 8) == pytest.approx(11 / 8, rel=0.01)
