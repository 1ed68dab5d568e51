"""Memory of a module: blocks never overlap, what is free is used again, and no more is null."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.bundle.parts import WEB
from sparsecc.backends.codegen.toolchain import Unit, build_cached, wasm_module
from sparsecc.backends.kernels.sources import read_sources

ALIGN = 64
Call = Callable[..., int]


@pytest.fixture(scope="module")
def module() -> Path:
    units = (Unit("memory.c"), Unit("threads.c"))
    exports = ("sc_web_alloc", "sc_web_free", "sc_web_host")
    return build_cached(wasm_module("memory.wasm", read_sources(WEB), units, exports))


def opened(module: Path, limit: int = -1) -> tuple[Call, Call, Callable[[], int]]:
    """alloc, free, and how many bytes the module has."""
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=limit)
    exports = wasmtime.Instance(store, wasmtime.Module.from_file(engine, str(module)), []).exports(
        store
    )
    alloc, free, memory = (exports[name] for name in ("sc_web_alloc", "sc_web_free", "memory"))
    return (
        lambda size: alloc(store, size) & 0xFFFFFFFF,
        lambda place: free(store, place),
        lambda: memory.data_len(store),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("get"), st.integers(0, 300_000)),
            st.tuples(st.just("drop"), st.integers(0, 50)),
        ),
        max_size=120,
    )
)
def test_blocks_lie_apart(module: Path, calls: list[tuple[str, int]]) -> None:
    alloc, free, size = opened(module)
    held: dict[int, int] = {}
    for what, number in calls:
        if what == "get":
            place = alloc(number)
            assert place
            assert place % ALIGN == 0
            assert place + number <= size()
            assert all(
                place + number <= other or other + length <= place for other, length in held.items()
            )
            held[place] = number
        elif held:
            place = sorted(held)[number % len(held)]
            free(place)
            del held[place]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=30), st.randoms())
def test_what_is_free_is_whole_again(module: Path, sizes: list[int], random: Random) -> None:
    """After all is given back, in any order, one block of all of it fits without growing."""
    alloc, free, size = opened(module)
    places = [alloc(number) for number in sizes]
    random.shuffle(places)
    for place in places:
        free(place)
    before = size()
    assert alloc(sum(sizes))
    assert size() == before


def test_no_more_is_null_and_what_is_there_stays_good(module: Path) -> None:
    alloc, free, size = opened(module, limit=8 << 20)
    assert alloc(1 << 40) == 0
    assert alloc(16 << 20) == 0
    large = alloc(4 << 20)
    assert large
    assert alloc(4 << 20) == 0
    assert alloc(1 << 10)
    free(large)
    assert alloc(4 << 20) == large
    assert size() <= 8 << 20


def test_null_is_freed_like_in_c(module: Path) -> None:
    _, free, _ = opened(module)
    free(0)


def test_almost_all_of_the_address_space(module: Path) -> None:
    """Blocks above 2 GiB, where an address is negative to JavaScript."""
    alloc, free, _ = opened(module)
    places = [alloc(1 << 30) for _ in range(4)]
    assert all(places[:3])
    assert places[3] == 0
    assert places[2] > 1 << 31
    free(places[1])
    assert alloc(1 << 29) == places[1]
