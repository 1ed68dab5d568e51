"""``compile(attention=..., online="5")``: blocks that are searched while the model runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsecc
from sparsecc.errors import CalibrationError, ModelError, PlanError
from sparsecc.search.attentions import PlanOnline
from sparsecc.search.plan import Plan
from sparsecc.verify import verify
from tests.passes.attention import moving
from tests.passes.attention.moving import BLOCKS, GRID, SIDE, attended, samples

STEPS = 5


def compiled(model: Any = None, **more: Any) -> sparsecc.Compiled:
    settings: dict[str, Any] = {
        "target": "x86-64-v4",
        "attention": GRID.spec,
        "online": str(STEPS),
        "sparsity": "dense",
        "executor": "serial",
        **more,
    }
    return sparsecc.compile(model or moving.exported(True, False), **settings)


@pytest.fixture(scope="module")
def made() -> sparsecc.Compiled:
    """Searched on samples that are alike, and held against one that is not."""
    return compiled(calibration=samples(5, 5, 5, 9))


def test_blocks_that_move_are_searched_online_and_others_are_not(made) -> None:
    moving, still = made.plan.attention
    assert moving.online == PlanOnline(steps=5, full=1, searches=(1, 3), sparsity=0.8)
    assert all(head.recall > 0.9 and head.held_out_recall < 0.5 for head in moving.heads)
    assert moving.predicted_ms < moving.dense_ms
    assert still.online is None
    assert not still.is_dense
    assert all(abs(head.recall - head.held_out_recall) < 0.1 for head in still.heads)
    said = " ".join(str(made.report).split())
    assert "1 attention over" in said
    assert (
        "1 attention whose blocks are searched at steps 1 and 3 of 5, 80% of them left out" in said
    )


def test_without_online_the_report_names_the_attention_and_the_way_out() -> None:
    static = compiled(calibration=samples(5, 5, 5, 9), online=None)
    moving = static.plan.attention[0]
    assert moving.online is None
    assert not moving.is_dense
    (said,) = (each.reason for each in static.plan.refusals if "move with" in each.reason)
    assert repr(moving.name) in said
    assert "give online" in said
    assert "move with the input" in str(static.report)


def test_blocks_that_stand_still_are_found_before() -> None:
    found = compiled(calibration=samples(5, 5, 5, 5))
    assert all(each.online is None for each in found.plan.attention)
    assert not found.manifest.state
    with pytest.raises(ModelError, match="carries nothing") as caught:
        found.steps()
    assert "online" in caught.value.fix


@pytest.mark.parametrize(
    ("target", "backend", "needs"),
    [
        ("x86-64-v4", "onnxruntime", None),
        ("x86-64-v4", "bundle", None),
        ("x86-64-v4", "tvm", "tvm"),
        ("wasm", "bundle", "wasmtime"),
    ],
)
def test_a_sampling_is_what_float64_makes_of_it(
    target: str, backend: str, needs: str | None
) -> None:
    """Without any data; the marked tokens go on between two searches, so that old blocks show."""
    if needs:
        pytest.importorskip(needs)
    found = compiled(moving.exported(True), target=target, backend=backend)
    assert found.manifest.numerics["max_rel_error"] < 1e-4
    assert found.manifest.numerics["blocks_apart"] == 0
    steps, index = found.steps(), np.full(BLOCKS, -1, np.int32)
    for step, block in enumerate((3, 4, 5, 6, 7)):
        x = moving.marked(block, step)["x"]
        wanted, index = attended(x, index, step)
        assert np.abs(steps(x) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert steps.step == STEPS


def test_without_data_every_attention_is_searched_online(made) -> None:
    found = compiled()
    assert [each.name for each in found.plan.attention] == [
        each.name for each in made.plan.attention
    ]
    assert all(each.online for each in found.plan.attention)
    assert [each.name for each in found.manifest.state] == ["step", "blocks.0", "blocks.1"]


def test_a_sampling_ends_and_another_begins(made) -> None:
    steps, feeds = made.steps(), samples(*range(STEPS))
    first = [steps(**feed) for feed in feeds]
    with pytest.raises(ModelError, match="sampling of 5 steps is over") as caught:
        steps(**feeds[0])
    assert "begin()" in caught.value.fix
    steps.begin()
    again = [steps(feed["x"]) for feed in feeds]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    tensor = made.steps()(torch.from_numpy(feeds[0]["x"]))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), first[0])


def test_a_failed_call_does_not_count(made) -> None:
    steps = made.steps()
    with pytest.raises(ModelError):
        steps(np.zeros((1, 3, 5), np.float32))
    assert steps.step == 0


def test_a_call_without_its_state_says_what_to_do(made) -> None:
    with pytest.raises(ModelError, match=r"the model wants \['x', 'step', 'blocks.0'\]") as caught:
        made(**samples(5)[0])
    assert "steps()" in caught.value.fix
    with pytest.raises(ModelError, match="carried from call to call"):
        made.steps()(**samples(5)[0], step=np.zeros(1, np.int64))


def test_the_state_may_be_carried_by_hand(made) -> None:
    """As a program in another language does, by what the manifest says."""
    steps, feeds = made.steps(), samples(5, 6, 7)
    state = {each.name: np.full(each.dims, each.begin, each.dtype) for each in made.manifest.state}
    for step, feed in enumerate(feeds):
        outputs = made.run({**feed, **state, "step": np.array([step])})
        state = {each.name: outputs[each.next] for each in made.manifest.state if each.next}
        wanted = steps.run(feed)
        np.testing.assert_array_equal(next(iter(outputs.values())), next(iter(wanted.values())))
        assert set(outputs) - set(wanted) == {"blocks.0.next"}


def test_wrong_blocks_are_refused_by_their_node(made) -> None:
    feed = samples(5)[0] | {"step": np.array([2])}
    for wrong in (BLOCKS, -2):
        index = np.full(BLOCKS, -1, np.int32)
        index[0] = wrong
        with pytest.raises(ModelError, match="block"):
            made.run(feed | {"blocks.0": index})


def test_a_plan_is_carried_out_to_the_same_bytes(made, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    made.plan.save(path)
    again = sparsecc.apply(
        moving.exported(True, False),
        Plan.load(path),
        calibration=samples(5, 5, 5, 9),
        executor="serial",
    )
    assert again.plan.attention == made.plan.attention
    one, other = (each.save(tmp_path / str(at)) for at, each in enumerate((made, again)))
    assert (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()
    checked = verify(one)
    assert checked["ok"]
    assert checked["max_rel_error"] < 1e-4


def edited(plan: Plan, **online: Any) -> Plan:
    """A plan with another online search."""
    raw = json.loads(plan.to_json())
    raw["attention"][0]["online"] |= online
    return Plan.from_json(json.dumps(raw))


def test_no_sparsity_is_dense(stock) -> None:
    model = moving.exported(True)
    plan = edited(compiled(model).plan, sparsity=0.0)
    steps = sparsecc.apply(model, plan, executor="serial").steps()
    for feed in samples(4, 9, 2):
        wanted = stock(model, **feed)
        assert np.abs(steps(**feed) - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("online", "message"),
    [
        ({"searches": [1, 5]}, "must ascend within 5 steps"),
        ({"searches": [3, 1]}, "must ascend"),
        ({"searches": []}, "searches"),
        ({"full": 2}, "must ascend"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"steps": 0}, "steps"),
    ],
)
def test_a_plan_with_an_impossible_search_is_refused(made, online, message) -> None:
    with pytest.raises(PlanError, match=message):
        edited(made.plan, **online)


def test_what_is_left_out_keeps_to_the_limit() -> None:
    """A ladder of sparsities, judged as searched on every sample; every other one judges."""
    settings: dict[str, Any] = {"calibration": samples(5, 9, 5, 9), "quality": "relative-error"}
    loose, tight = (
        compiled(moving.exported(True), max_drop=limit, online="5:0.95", **settings).plan
        for limit in (0.5, 1e-15)
    )
    assert loose.attention[0].online.sparsity == 0.95
    assert loose.budget.met
    assert 0 < loose.budget.drop <= 0.5
    assert tight.budget.drop == 0
    assert tight.attention[0].is_dense
    # of five steps, two of which search, .4 would save less than a tenth
    assert "50% of them cannot be left out" in tight.attention[0].reason


def test_a_search_that_saves_too_little_is_not_tried() -> None:
    """Nor is what would lose blamed on the limit."""
    found = compiled(
        moving.exported(True),
        calibration=samples(5, 9, 5, 9),
        quality="relative-error",
        max_drop=0.5,
        online="5:0.4",
    )
    assert found.plan.attention[0].is_dense
    assert "search online would save 6.8%" in found.plan.attention[0].reason
    assert found.plan.budget.drop == 0


def test_attentions_online_and_others_share_a_limit() -> None:
    found = compiled(calibration=samples(5, 9, 5, 9), max_drop=0.1, quality="relative-error")
    first, second = found.plan.attention
    assert first.online
    assert second.online is None
    assert not second.is_dense
    assert 0 < found.plan.budget.drop <= 0.1
    assert found.quality["rel_error"] <= 0.1


def test_weights_are_pruned_and_learn_beside_a_search() -> None:
    """Both see blocks that are found for the sample at hand; the state comes after them."""
    found = compiled(
        moving.exported(True),
        calibration=samples(5, 5, 5, 5, 9),
        sparsity="4x1:0.5",
        recover="2 steps",
    )
    assert found.plan.attention[0].online
    assert found.plan.recovery.steps == 2
    assert any(layer.choice.changes for layer in found.plan.layers)
    assert found.manifest.numerics["max_rel_error"] < 1e-5
    steps = found.steps()
    assert all(steps(**feed).shape == (1, GRID.tokens, moving.WIDTH) for feed in samples(1, 2, 3))


def test_the_row_of_an_online_attention_takes_a_mean_step(made) -> None:
    moving, _ = made.plan.attention
    row = next(row for row in made.report.rows if row.name == moving.name)
    assert row.est_ms / row.dense_ms == pytest.approx(moving.predicted_ms / moving.dense_ms, 1e-3)
    assert row.density == pytest.approx(3 / SIDE)  # a fifth of 16
    assert "time is that of a mean step" in row.why


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"attention": None}, PlanError, "nothing says which"),
        ({"online": "1"}, PlanError, "no room for them"),
        ({"online": "0"}, PlanError, "no room for them"),
        ({"online": "20:1"}, PlanError, "cannot leave out 1 "),
        ({"online": "20:120%"}, PlanError, "cannot leave out 120%"),
        ({"online": "20:-1"}, PlanError, "no online search: '20:-1'"),
        ({"online": "often"}, PlanError, "no online search: 'often'"),
        ({"attention": "8x16x15"}, PlanError, "1920 tokens, the attention has 1024"),
        ({"max_drop": 0.1}, CalibrationError, "there are none"),
        ({"calibration": samples(5)}, CalibrationError, "nothing is left to judge"),
    ],
)
def test_what_cannot_be_done_is_said(more, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        compiled(**more)
    assert caught.value.fix


@given(steps=st.integers(2, 10**6), percent=st.integers(0, 99))
def test_a_schedule_fits_its_sampling(steps: int, percent: int) -> None:
    online = PlanOnline.parse(f"{steps}:{percent}%")
    assert online.sparsity == pytest.approx(percent / 100)
    assert online.full == online.searches[0]
    assert all(one < other for one, other in itertools.pairwise((*online.searches, steps)))
    assert abs(online.searches[0] - steps / 5) < 1
    assert abs(online.searches[1] - steps * 3 / 5) < 1


def test_the_schedule_of_the_paper() -> None:
    assert PlanOnline.parse("50") == PlanOnline(steps=50, full=10, searches=(10, 30), sparsity=0.8)


def test_one_model_has_one_sampling(made) -> None:
    raw = json.loads(made.plan.to_json())
    first = raw["attention"][0]
    raw["attention"].append(first | {"name": "other", "online": first["online"] | {"steps": 9}})
    with pytest.raises(PlanError, match="several lengths"):
        Plan.from_json(json.dumps(raw))


def test_it_is_timed_at_a_call_that_keeps_what_was_found(made, tmp_path: Path) -> None:
    import onnx

    from sparsecc.bench import compare

    onnx.save(moving.exported(True, False), tmp_path / "model.onnx")
    folder = made.save(tmp_path / "out")
    result = compare(folder, tmp_path / "model.onnx", inputs=moving.marked(7), seconds=0.1)
    assert result.max_rel_difference < 0.01
    assert compare(folder, seconds=0.1).max_rel_difference < 1e-4
