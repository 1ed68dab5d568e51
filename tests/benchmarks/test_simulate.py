"""The training that the simulator is compared with is the same on any number of processes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from benchmarks.cost import Pair
from benchmarks.simulate import AGAIN, MODEL, operator_table, step_table, train, ways
from benchmarks.training import links, operators
from benchmarks.training.mesh import close, mesh
from benchmarks.training.processes import run
from benchmarks.training.step import Trainer
from sparsecc.simulate import Choice, read_model
from sparsecc.simulate.cluster import Device
from sparsecc.simulate.model import Model
from tests.sparsecc.simulate.described import model

SMALL = model(
    dtype="float32",
    layers=4,
    d=32,
    attention={"heads": 4, "key_dim": 8, "value_dim": 8},
    dense_width=64,
    expert_width=48,
    experts=8,
    vocabulary=64,
    sequence=16,
    batch=8,
)
WAYS = [
    Choice(tensor=4),
    Choice(pipeline=4),
    Choice(expert=4),
    Choice(tensor=2, pipeline=2, micro_batch=2),
    Choice(tensor=2, expert=2, recompute="full"),
    Choice(pipeline=2, expert=2),
    Choice(expert=2, micro_batch=2),
]
STEPS = 3


def losses(one: Model, choices: list[Choice]) -> list[list[float]]:
    """Of some steps of each choice, in double precision; run in every process."""
    found = []
    for choice in choices:
        where = mesh(choice)
        trainer = Trainer(one, where, torch.float64)
        generator = torch.Generator().manual_seed(1)
        size = one.batch, one.sequence + 1
        batches = [torch.randint(one.vocabulary, size, generator=generator) for _ in range(STEPS)]
        found.append([trainer.step(batch) for batch in batches])
        close(where)
    return found


def test_every_way_to_spread_it_trains_the_same_model():
    alone = run(losses, 1, SMALL, [Choice()])[0][0]
    assert len(set(alone)) == STEPS
    spread = np.array(run(losses, 4, SMALL, WAYS))
    for index, choice in enumerate(WAYS):
        # Tensor-parallel processes all know the loss.
        whole = spread[:, index].sum(0) / choice.tensor
        assert whole == pytest.approx(alone, rel=1e-12), str(choice)


def timed(one: Model) -> tuple[list[float], float, list[links.Sent]]:
    """What the benchmark measures of a way and of collectives; run in every process."""
    return train(one, [Choice(expert=2)], 1), *links.measure([4000, 8000])


def test_steps_and_collectives_are_timed_in_processes():
    for steps, work, sent in run(timed, 2, SMALL):
        assert len(steps) == 1
        assert min(steps) > 0
        assert work > 0
        kinds = {(each.kind, each.devices) for each in sent}
        assert kinds == set(itertools.product(links.KINDS, [2]))


def test_tables_say_what_was_found():
    pairs = [
        Pair("matrix", "1", 0.9, 1.0),
        Pair("matrix", "2", 1.3, 1.0),
        Pair("sum", "3", 2.0, 1.0),
    ]
    table = operator_table([*pairs, Pair(AGAIN, "4", 1.5, 1.0)])
    assert "| matrix | 2 | 20.0% | 20.0% |" in table
    assert "| **all** | 3 | 46.7% | 30.0% |" in table
    assert f"| {AGAIN} | 1 | 50.0% | 50.0% |" in table
    steps = step_table(
        [
            Pair("step", f"1: {name}", a, b)
            for name, a, b in (("slow", 3.0, 4.0), ("fast", 1.0, 1.0), ("same", 2.0, 2.0))
        ]
    )
    rows = steps.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows[:3]] == ["1: fast", "1: same", "1: slow"]
    assert "| 1: slow | 3000 | 4000 | -25% |" in steps
    assert "Spearman **1.000**" in rows[3]


def test_ways_of_the_benchmark_are_enough_to_rank():
    one = read_model(MODEL)
    device = Device(peak={"float32": 1.0}, memory=1.0, bandwidth=1.0)
    counts = [len(list(ways(one, links.described(device, count)))) for count in (1, 2, 4)]
    assert sum(counts) >= 20
    assert min(counts) > 1


def test_a_device_is_found_again_from_its_times():
    """Samples that a known device would give, with the noise of a clock."""
    one, rng = read_model(MODEL), np.random.default_rng(0)
    speed = {"start": 2e-5, "half_depth": 20.0, "achieved": [[1e6, 0.4], [1e9, 0.8]]}
    true = Device.model_validate(
        {
            "peak": {"float32": 1e11},
            "memory": 1e9,
            "bandwidth": operators.BANDWIDTH,
            "start": 3e-5,
            "streamed": [[1e5, 0.1], [1e8, 0.2]],
            "speeds": {name: speed for name in operators.KNOTS if name != "streamed"},
        },
        strict=False,
    )

    def made(operator):
        sizes = {
            "matrix": tuple(rng.integers(32, 1024, 3).tolist()),
            "experts": (float(rng.integers(2)), *rng.integers(8, 256, 4).astype(float).tolist()),
            "streamed": (float(rng.integers(10**5, 10**8)),),
        }
        size = sizes.get(operator, (float(rng.integers(1, 9)), 4.0))
        sized = one.model_copy(update={"sequence": int(rng.integers(32, 512))})
        blank = operators.Sample(operator, sized, size, 1.0)
        time = operators.predicted(true, blank) * rng.normal(1, 0.02)
        return operators.Sample(operator, sized, size, time)

    found = operators.fit([made(operator) for operator in operators.KNOTS for _ in range(40)])
    fresh = [made(operator) for operator in operators.KNOTS for _ in range(20)]
    errors = [operators.predicted(found, each) / each.seconds - 1 for each in fresh]
    assert np.mean(np.abs(errors)) < 0.06


def test_links_are_found_again_from_their_times():
    device = Device(peak={"float32": 1.0}, memory=1.0, bandwidth=1.0)

    def sent(kind, count, size):
        return links.Sent(kind, count, size, 1e-3 * count + size / 1e9)

    sizes = links.spaced(2e3, 6e6, 12)
    known = [sent(k, n, float(s)) for k in links.KINDS for n in (2, 4) for s in sizes]
    latency, achieved = links.curves(
        [each for each in known if each.devices < 4 or "p" not in each.kind[:1]]
    )
    cluster = links.described(device, 4, latency=latency, achieved=achieved)
    for kind, size in itertools.product(links.KINDS[:-1], (5e3, 1e5, 3e6)):
        for count in (2, 4):
            one = sent(kind, count, size)
            assert links.predicted(cluster, one) == pytest.approx(one.seconds, rel=0.12)
