"""The cache of built files: bounded, by last use, and safe to share."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.codegen import cache
from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached
from sparsecc.errors import BackendError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for a hundred bytes."""
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(cache, "LIMIT", 100)
    return tmp_path


def put(folder: Path, key: str, size: int) -> Path:
    made, place = folder / f"made-{key}", cache.place_of(key, "file.o")
    made.write_bytes(b"x" * size)
    cache.keep(made, place)
    return place


def long_ago(place: Path, seconds: int) -> None:
    then = place.stat().st_mtime - seconds
    os.utime(place, (then, then))


def test_what_was_not_used_for_longest_makes_room(home: Path) -> None:
    old, older = put(home, "old", 40), put(home, "older", 40)
    long_ago(old, 60)
    long_ago(older, 120)
    assert cache.is_kept(older)  # which makes it the latest
    new = put(home, "new", 30)
    assert [place.exists() for place in (old, older, new)] == [False, True, True]
    assert not old.parent.exists()


def test_a_file_larger_than_the_limit_is_kept_alone(home: Path) -> None:
    first, large = put(home, "first", 10), put(home, "large", 500)
    assert (cache.is_kept(first), cache.is_kept(large)) == (False, True)
    assert large.read_bytes() == b"x" * 500


def test_nothing_else_in_the_folder_is_touched(home: Path) -> None:
    table = home / "cache" / "calibration" / "table.json"
    table.parent.mkdir(parents=True)
    table.write_text("x" * 1000)
    left = cache.place_of("crashed", ".aside-1") / "file.o"
    left.parent.mkdir(parents=True)
    put(home, "one", 90), put(home, "two", 90)
    assert table.exists()


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_it_stays_within_its_limit(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(cache, "cache_dir", lambda: folder / "cache")
        patch.setattr(cache, "LIMIT", 100)
        places = [put(folder, f"{number}", size) for number, size in enumerate(sizes)]
        kept = [place.stat().st_size for place in places if place.exists()]
        assert sum(kept) <= 100
        assert places[-1].exists()


def test_many_at_once_agree(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(home, f"{number}", 30), range(200)))
    left = [place for place in (home / "cache" / "built").glob("*/*") if place.is_file()]
    assert sum(place.stat().st_size for place in left) <= 100


def test_a_cache_that_cannot_be_written_says_which(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda: Path("/proc/none"))
    with pytest.raises(BackendError, match="cannot write the build cache /proc/none"):
        put(home, "one", 1)


def test_zigs_own_cache_keeps_nothing_of_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(home / "zig"))
    unit = Unit("alone.c")
    build_cached(
        Build(
            "alone.so", "x86_64-linux-gnu", {"alone.c": "int alone(void) { return 1; }\n"}, (unit,)
        )
    )
    assert not list((home / "zig").rglob("alone*"))
