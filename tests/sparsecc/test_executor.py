from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from threadpoolctl import threadpool_info

from sparsecc.errors import BackendError, CalibrationError
from sparsecc.executor import Executor, Where, in_threads, open_executor

PLACES: list[Where] = ["serial", "processes", "ray"]
ELSEWHERE = PLACES[1:]


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Executor]]:
    with (
        open_executor("serial") as serial,
        open_executor("processes", 2) as processes,
        open_executor("ray", 2) as ray,
    ):
        yield {"serial": serial, "processes": processes, "ray": ray}


def product(seed: int) -> np.ndarray:
    """Sums whose last bits depend on how many threads made them."""
    random = np.random.default_rng(seed)
    return random.normal(size=(300, 900)) @ random.normal(size=(900, 300))


def threads(_: int) -> list[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return [library["num_threads"] for library in threadpool_info()]


def process(_: int) -> int:
    return os.getpid()


def odd_only(number: int) -> int:
    if number % 2 == 0:
        raise ZeroDivisionError(f"{number} is even")
    return number


def misfit(number: int) -> int:
    raise CalibrationError("no such input", node="conv1", fix="rename it")


class StubbornError(Exception):
    """Cannot be made from its arguments again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def stubborn(number: int) -> int:
    raise StubbornError("cannot", "travel")


def lock(_: int) -> object:
    return threading.Lock()


def die_once(folder: Path, number: int) -> int:
    marker = folder / "died"
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("where", PLACES)
def test_same_results_in_order_everywhere(executors: dict[str, Executor], where: Where) -> None:
    expected = [product(seed) for seed in range(7)]
    found = list(executors[where].map(product, range(7)))
    one_thread = list(executors["serial"].map(product, range(7)))
    assert len(found) == 7
    for a, b, c in zip(found, one_thread, expected, strict=True):
        assert np.array_equal(a, b)  # to the last bit
        assert np.allclose(a, c)


@pytest.mark.parametrize("where", PLACES)
def test_numerical_libraries_have_one_thread(executors: dict[str, Executor], where: Where) -> None:
    (counts,) = executors[where].map(threads, [0])
    assert counts
    assert set(counts) == {1}


@pytest.mark.parametrize("where", PLACES)
def test_only_serial_stays_in_this_process(executors: dict[str, Executor], where: Where) -> None:
    ids = set(executors[where].map(process, range(8)))
    assert (os.getpid() in ids) == (where == "serial")
    assert len(ids) <= executors[where].workers


@pytest.mark.parametrize("where", PLACES)
def test_results_come_as_they_are_made(executors: dict[str, Executor], where: Where) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = executors[where].map(abs, items())
    assert next(results) == 0
    assert len(taken) <= 3 * executors[where].workers
    assert [next(results) for _ in range(20)] == list(range(1, 21))


@pytest.mark.parametrize("where", PLACES)
def test_no_items_no_results(executors: dict[str, Executor], where: Where) -> None:
    assert list(executors[where].map(abs, [])) == []


@pytest.mark.parametrize("where", PLACES)
def test_an_exception_is_raised_with_the_item_named(
    executors: dict[str, Executor], where: Where
) -> None:
    results = executors[where].map(odd_only, [1, 3, 4, 5], name=lambda n: f"layer {n}")
    assert next(results) == 1
    assert next(results) == 3
    with pytest.raises(ZeroDivisionError, match="4 is even") as caught:
        next(results)
    notes = "\n".join(caught.value.__notes__)
    assert "while working on layer 4" in notes
    assert "in odd_only" in notes
    assert list(executors[where].map(odd_only, [5])) == [5]  # the executor is none the worse


@pytest.mark.parametrize("where", PLACES)
def test_an_error_of_the_user_keeps_its_kind_and_way_out(
    executors: dict[str, Executor], where: Where
) -> None:
    with pytest.raises(CalibrationError) as caught:
        list(executors[where].map(misfit, [7], name=lambda n: f"layer {n}"))
    assert caught.value.message == "layer 7: no such input"
    assert (caught.value.node, caught.value.fix) == ("conv1", "rename it")


@pytest.mark.parametrize("where", PLACES)
def test_an_exception_that_cannot_be_copied_is_told_as_text(
    executors: dict[str, Executor], where: Where
) -> None:
    with pytest.raises(RuntimeError, match="StubbornError: cannot travel"):
        list(executors[where].map(stubborn, [0]))


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_result_that_cannot_be_copied_names_its_item(
    executors: dict[str, Executor], where: Where
) -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        list(executors[where].map(lock, [0], name=lambda n: f"layer {n}"))
    assert "while working on layer 0" in caught.value.__notes__


def test_ray_survives_a_worker_killed_in_mid_work(
    executors: dict[str, Executor], tmp_path: Path
) -> None:
    found = list(executors["ray"].map(partial(die_once, tmp_path), range(8)))
    assert (tmp_path / "died").exists()
    assert found == list(map(partial(die_once, tmp_path), range(8)))


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_worker_that_is_always_lost_is_an_error_with_a_way_out(where: Where) -> None:
    with open_executor(where, 1) as executor, pytest.raises(BackendError, match="layer 1") as error:
        list(executor.map(die, [1], name=lambda n: f"layer {n}"))
    assert "was lost" in error.value.message
    assert "fewer workers" in str(error.value.fix)


def test_processes_that_were_lost_stay_lost() -> None:
    with open_executor("processes", 1) as executor:
        for function in (die, abs):
            with pytest.raises(BackendError, match="was lost"):
                list(executor.map(function, [1]))


def test_processes_need_no_guarded_main_module(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "from sparsecc.executor import open_executor\n"
        "with open_executor('processes', 2) as executor:\n"
        "    print(list(executor.map(lambda n: -n, range(3))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[0, -1, -2]\n", done.stderr


def in_new_process(script: str, address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"RAY_ADDRESS": address},
    )


def test_a_running_ray_cluster_is_joined_and_left_running(executors: dict[str, Executor]) -> None:
    address = ray.get_runtime_context().gcs_address
    script = (
        "from sparsecc.executor import open_executor\n"
        "with open_executor('ray') as executor:\n"
        "    print(executor.workers, list(executor.map(abs, range(-2, 1))))\n"
    )
    done = in_new_process(script, address)
    assert done.stdout == "2 [2, 1, 0]\n", done.stderr
    assert list(executors["ray"].map(abs, [-3])) == [3]


def test_a_ray_cluster_that_is_not_there_is_an_error_with_a_way_out() -> None:
    script = (
        "from sparsecc.errors import BackendError\n"
        "from sparsecc.executor import open_executor\n"
        "try:\n"
        "    with open_executor('ray'):\n"
        "        pass\n"
        "except BackendError as error:\n"
        "    print(error)\n"
    )
    done = in_new_process(script, "127.0.0.1:1")
    assert "no Ray cluster at 127.0.0.1:1" in done.stdout, done.stderr
    assert "RAY_ADDRESS" in done.stdout


def test_the_workers_end_with_the_block() -> None:
    with open_executor("processes", 1) as executor:
        (worker,) = executor.map(process, [0])
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_ray_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match="needs ray") as caught, open_executor("ray"):
        pass
    assert "sparsecc[ray]" in str(caught.value.fix)


@pytest.mark.parametrize(("where", "workers"), [("cloud", None), ("processes", 0)])
def test_what_makes_no_sense_is_refused(where: Where, workers: int | None) -> None:
    with pytest.raises(ValueError, match=r"cloud|0 workers"), open_executor(where, workers):
        pass


def test_threads_give_results_in_order_and_libraries_one_each() -> None:
    before = threads(0)
    together = threading.Barrier(2, timeout=10)

    def meet(item: int) -> int:
        if (os.cpu_count() or 1) > 1:
            together.wait()  # breaks unless two are at work at once
        return item * item

    assert in_threads(meet, range(6)) == [item * item for item in range(6)]
    assert set(in_threads(threads, range(2))[0]) == {1}
    assert threads(0) == before
    with pytest.raises(ZeroDivisionError, match="2 is even"):
        in_threads(odd_only, [1, 2, 3])
