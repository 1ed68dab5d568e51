"""Target files: the round trip, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.kernels.table import ISAS
from sparsecc.errors import TargetError
from sparsecc.targets import TARGETS, Target
from sparsecc.targets.base import MAX_BYTES, MOST_LANES, Isa

DOCS = Path(__file__).parents[3] / "docs" / "targets.md"
CACHES = st.lists(st.integers(1, 2**39), min_size=1, max_size=4, unique=True).map(sorted)
NUMBERS = st.floats(1e-3, 1e6)


@st.composite
def drawn(draw: st.DrawFn) -> Target:
    caches = draw(CACHES)
    return Target(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
        family="cuda",
        triple="",
        isas=(),
        lanes=2 ** draw(st.integers(0, 6)),
        fma_ports=draw(NUMBERS),
        registers=draw(st.integers(1, 512)),
        ghz=draw(NUMBERS),
        threads=draw(st.integers(1, 512)),
        caches=tuple(caches),
        bandwidths=tuple(draw(NUMBERS) for _ in range(len(caches) + 1)),
        int8_gain=draw(NUMBERS),
    )


@given(st.one_of(drawn(), st.sampled_from(list(TARGETS.values()))))
def test_the_round_trip_keeps_every_field_and_byte(target: Target) -> None:
    text = target.to_json()
    assert Target.from_json(text) == target
    assert Target.from_json(text.encode()).to_json() == text


def test_the_page_shows_a_target() -> None:
    shown = DOCS.read_text().split("```json\n")[1].split("```")[0]
    target = Target.from_json(shown)
    assert json.loads(target.to_json()) == json.loads(shown)
    for field in json.loads(shown):
        assert f"`{field}`" in DOCS.read_text().split("| field |")[1]


def test_the_page_lists_every_target() -> None:
    assert all(f"`{name}`" in DOCS.read_text() for name in TARGETS)


def test_every_instruction_set_has_kernels() -> None:
    assert set(get_args(Isa)) == set(ISAS)


V4 = json.loads(TARGETS["x86-64-v4"].to_json())
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"format": 2}, "has target format 2, this sparsecc reads 1"),
    "a version that is no number": ({"format": True}, "has target format True"),
    "an unknown field": ({"gpu": 1}, "gpu"),
    "another type": ({"lanes": "16"}, "lanes"),
    "a number that is not whole": ({"lanes": 16.5}, "lanes"),
    "a fraction of a power of two": ({"lanes": 12}, "power of two"),
    "too many lanes": ({"lanes": 2 * MOST_LANES}, "lanes"),
    "nothing per cycle": ({"fma_ports": 0.0}, "fma_ports"),
    "an infinity": ({"ghz": float("inf")}, "ghz"),
    "no number": ({"ghz": float("nan")}, "ghz"),
    "a path as name": ({"name": "../v4"}, "name"),
    "an unknown family": ({"family": "riscv"}, "family"),
    "a strange triple": ({"triple": "x86_64-linux-gnu -o /etc/passwd"}, "triple"),
    "another family's triple": ({"triple": "aarch64-linux-gnu"}, "another family"),
    "another family's kernels": ({"isas": ["arm64-neon"]}, "another family"),
    "kernels without a triple": ({"triple": ""}, "both or neither"),
    "no cache": ({"caches": [], "bandwidths": [1.0]}, "caches"),
    "caches that shrink": ({"caches": [2, 1, 3]}, "do not grow"),
    "a bandwidth too few": ({"bandwidths": [1.0, 2.0, 3.0]}, "one number per cache"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_field_is_named(case: str) -> None:
    change, said = BAD[case]
    with pytest.raises(TargetError) as caught:
        Target.from_json(json.dumps(V4 | change), "my.json")
    assert said in str(caught.value)
    assert "my.json" in str(caught.value)
    assert "docs/targets.md" in str(caught.value)


def test_a_missing_field_is_named() -> None:
    for name in set(V4) - {"format", "tensor_tflops", "backend"}:
        left = {key: value for key, value in V4.items() if key != name}
        with pytest.raises(TargetError, match=name):
            Target.from_json(json.dumps(left))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", "[" * 10000, b"\xff\xfe\x00"])
def test_what_is_no_target_is_refused(text: str | bytes) -> None:
    with pytest.raises(TargetError):
        Target.from_json(text)


def test_files_are_read_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(TARGETS["wasm"].to_json())
    assert Target.load(path) == TARGETS["wasm"]
    path.write_text(" " * (MAX_BYTES + 1))
    with pytest.raises(TargetError, match="larger than 64 KiB"):
        Target.load(path)
    with pytest.raises(TargetError, match="cannot read the target"):
        Target.load(tmp_path / "none.json")


def test_a_target_made_in_python_is_checked_too() -> None:
    fields = {key: value for key, value in V4.items() if key != "format"}
    with pytest.raises(pydantic.ValidationError):
        Target(**(fields | {"isas": ("x86-64-v4",), "caches": (1,), "bandwidths": (1.0,)}))
