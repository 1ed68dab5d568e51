"""Recovery: better on data it never saw, the same zeros, the same bits again, and no harm done."""

from __future__ import annotations

import itertools
import types

import numpy as np
import pytest
import torch

from sparsecc.errors import CalibrationError
from sparsecc.quality.effort import Effort
from sparsecc.torch.recovery import course
from sparsecc.torch.recovery import recover as recovering
from sparsecc.torch.recovery.course import Course
from sparsecc.torch.recovery.recover import recover, schedule
from tests.sparsecc.torch.recovery.cases import inputs, lesson, weights

STEPS = Effort(steps=60)


def distance(dense, pruned, stock) -> float:
    """Relative error of the outputs on new inputs."""
    import onnx_ir as ir

    x = inputs(64, seed=9)
    ours, wanted = (stock(ir.to_proto(model), x=x) for model in (pruned, dense))
    return float(np.square(ours - wanted).sum() / np.square(wanted).sum())


def test_it_comes_closer_on_new_data_and_keeps_every_zero(stock) -> None:
    dense, pruned, data = lesson()
    before, teacher = weights(pruned), weights(dense)
    start = distance(dense, pruned, stock)
    done = recover(dense, pruned, data, STEPS)
    after = weights(pruned)
    assert distance(dense, pruned, stock) < 0.5 * start
    assert done.after < 0.5 * done.before
    assert (done.steps, done.reason) == (60, "")
    for name, weight in after.items():
        np.testing.assert_array_equal(weight == 0, before[name] == 0)
        np.testing.assert_array_equal(weights(dense)[name], teacher[name])
    assert any((after[name] != before[name]).any() for name in after)


def test_the_same_again_gives_the_same_bits_and_another_seed_others() -> None:
    results = []
    for seed in (0, 0, 1):
        dense, pruned, data = lesson()
        recover(dense, pruned, data, STEPS, seed=seed)
        results.append(weights(pruned))
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name], results[1][name])
    assert any((results[0][name] != results[2][name]).any() for name in results[0])


class UnpluggedError(Exception):
    """Stands for a user who pulls the plug."""


def test_after_an_interruption_it_goes_on_to_the_same_bits(tmp_path) -> None:
    dense, whole, data = lesson()
    recover(dense, whole, data, STEPS)
    path = tmp_path / "state.safetensors"

    def unplug(what: str, share: float) -> None:
        if share > 0.55:
            raise UnpluggedError

    dense, broken, data = lesson()
    untouched = weights(broken)
    with pytest.raises(UnpluggedError):
        recover(dense, broken, data, STEPS, checkpoint=path, progress=unplug)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    for name, weight in weights(broken).items():
        np.testing.assert_array_equal(weight, untouched[name])
    said: list[str] = []
    recover(dense, broken, data, STEPS, checkpoint=path, progress=lambda s, _: said.append(s))
    assert len(said) <= 30  # the steps before the last checkpoint were not taken again
    for name, weight in weights(broken).items():
        np.testing.assert_array_equal(weight, weights(whole)[name])


def test_a_checkpoint_of_something_else_is_refused(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    dense, pruned, data = lesson()
    recover(dense, pruned, data, Effort(steps=10), checkpoint=path)
    dense, pruned, data = lesson()
    with pytest.raises(CalibrationError, match="another model, other data or other settings"):
        recover(dense, pruned, data, Effort(steps=11), checkpoint=path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(CalibrationError, match="no checkpoint of a recovery"):
        recover(dense, pruned, data, Effort(steps=10), checkpoint=path)


def test_where_it_cannot_be_written_is_said(tmp_path) -> None:
    dense, pruned, data = lesson()
    with pytest.raises(CalibrationError, match="cannot be written"):
        recover(dense, pruned, data, Effort(steps=10), checkpoint=tmp_path / "no" / "state")


def test_it_goes_back_when_it_diverges(stock) -> None:
    """The loss is not a number at one step; the rest is learnt, with smaller steps."""
    dense, pruned, data = lesson()
    calls = []

    def loss(outputs, wanted):
        calls.append(None)
        error = (outputs["y"] - wanted["y"]).square().mean()
        return error * float("nan") if len(calls) == 70 else error

    start = distance(dense, pruned, stock)
    done = recover(dense, pruned, data, STEPS, loss=loss)
    assert done.reason == "diverged 1 times, went back to the best weights each time"
    assert done.after < done.before
    assert distance(dense, pruned, stock) < start
    assert all(np.isfinite(weight).all() for weight in weights(pruned).values())


def test_what_only_diverges_ends_with_the_weights_of_the_start() -> None:
    dense, pruned, data = lesson()
    before = weights(pruned)

    def loss(outputs, wanted):
        error = (outputs["y"] - wanted["y"]).square().mean()
        return error * float("nan") if torch.is_grad_enabled() else error

    done = recover(dense, pruned, data, STEPS, loss=loss)
    assert done.best == 0
    assert done.steps == recovering.MOST_DIVERGENCES
    assert "diverged" in done.reason
    assert "whose weights stay" in done.reason
    for name, weight in weights(pruned).items():
        np.testing.assert_array_equal(weight, before[name])


def test_steps_that_are_too_large_get_smaller(monkeypatch) -> None:
    """It goes back to the best weights; going on with the same steps does much worse."""
    monkeypatch.setattr(course, "PACE", 4.0)
    with monkeypatch.context() as stubborn:
        stubborn.setattr(recovering, "CALMER", 1.0)
        wild = recover(*lesson(), STEPS)
    done = recover(*lesson(), STEPS)
    assert any(loss > done.before for _, loss in done.history)
    assert done.after < 0.6 * min(done.before, wild.after)
    assert done.reason == ""


def test_time_bounds_the_steps(monkeypatch) -> None:
    ticks = itertools.count()  # a clock that a busy machine does not make run on
    clock = types.SimpleNamespace(monotonic=lambda: next(ticks) * 0.005)
    monkeypatch.setattr(recovering, "time", clock)
    dense, pruned, data = lesson()
    done = recover(dense, pruned, data, Effort(seconds=3.0))
    assert recovering.WARM_UP < done.steps < 20_000
    assert done.after < done.before


def test_the_whole_begins_with_a_new_optimiser_however_few_steps_there_is_time_for(
    monkeypatch,
) -> None:
    begun = []
    forget = Course.forget
    monkeypatch.setattr(Course, "forget", lambda self: begun.append(None) or forget(self))
    monkeypatch.setattr(recovering._Run, "_affordable", lambda self, pace: 2 * recovering.WARM_UP)
    dense, pruned, data = lesson()
    done = recover(dense, pruned, data, Effort(seconds=60.0))
    assert done.steps == 2 * recovering.WARM_UP
    assert len(begun) == 2


def test_the_step_size_rises_at_both_starts_and_ends_near_zero() -> None:
    factors = [schedule(step, 200, 40) for step in range(200)]
    assert factors[0] < factors[19] > factors[40] < factors[59]
    assert factors[-1] < 1e-3
    assert max(factors) <= 1
