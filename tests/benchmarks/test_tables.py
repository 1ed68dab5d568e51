"""Tables are kept for kernels that compile to the same, and for no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import objects, tables
from sparsecc.cost.table import TABLE_FILE, kernels_hash, shipped_path
from sparsecc.targets import TARGETS

V3 = TARGETS["x86-64-v3"]


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hashes of one instruction set's objects, and a table of other sources."""
    path, found = shipped_path(V3), objects.object_hashes("x86-64-v3")
    assert path is not None
    assert len(found) == len(set(found.values()))
    table = TABLE_FILE.load(path).model_copy(update={"kernels": "0" * 16})
    TABLE_FILE.save(table, tmp_path / "table.json")
    monkeypatch.setattr(tables, "shipped_path", lambda _: tmp_path / "table.json")
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({"x86-64-v3": found}))
    return file


def test_the_same_objects_keep_a_table(before: Path) -> None:
    kept = tables.kept(V3, before)
    assert not isinstance(kept, str)
    assert kept.kernels == kernels_hash(V3)
    assert kept.corrections


def test_an_object_that_changed_is_named(before: Path) -> None:
    found = json.loads(before.read_text())
    unit = next(name for name in found["x86-64-v3"] if name.startswith("tile.c"))
    found["x86-64-v3"][unit] = "0" * 64
    before.write_text(json.dumps(found))
    assert tables.kept(V3, before) == f"x86-64-v3 {unit}"
    assert tables.kept(TARGETS["x86-64-v4"], before) == "its target"
