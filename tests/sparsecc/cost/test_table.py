"""Tables: the round trip, what is refused, and those that come with sparsecc."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sparsecc.backends.cuda import table as gpu_table
from sparsecc.backends.kernels import sources
from sparsecc.backends.kernels import table as kernel_table
from sparsecc.backends.kernels.measured import rows_of
from sparsecc.backends.kernels.table import ISAS
from sparsecc.cost import table as table_module
from sparsecc.cost.gpu.assumed import assumed_table
from sparsecc.cost.rates import KINDS, Rate
from sparsecc.cost.shapes import shapes
from sparsecc.cost.table import (
    TABLE_FILE,
    Table,
    call_of,
    kernels_hash,
    measured_as,
    read_table,
    sample_of,
    shipped_path,
)
from sparsecc.errors import CostTableError
from sparsecc.targets import TARGETS

V4 = TARGETS["x86-64-v4"]


def table(**changes) -> Table:
    calls = [shape.call for shape in shapes(rows_of(V4)[0], V4, 3)]
    fields = {
        "target": V4,
        "kernels": kernels_hash(V4),
        "machine": "a machine",
        "peak_gflops": 200.0,
        "bandwidths": (4.0, 3.0, 2.0, 1.0),
        "rows": {"k": tuple(sample_of(call, 0.1234567) for call in calls)},
        "rates": {"add": Rate(call_ms=0.1, element_ns=0.2)},
    }
    return Table(**(fields | changes))


def test_the_round_trip_keeps_every_byte(tmp_path: Path) -> None:
    path, made = tmp_path / "deep" / "t.json", table()
    path.parent.mkdir()
    TABLE_FILE.save(made, path)
    assert read_table(path, V4) == made
    assert TABLE_FILE.text(read_table(path, V4)) == path.read_text()
    assert [each.name for each in path.parent.iterdir()] == ["t.json"]


def test_samples_are_calls_and_times() -> None:
    for row in rows_of(V4):
        for shape in shapes(row, V4, 3):
            assert call_of(sample_of(shape.call, 1.5)) == (shape.call, 1.5)


def test_the_hardware_is_as_fast_as_was_measured() -> None:
    hardware = table().hardware
    assert hardware.peak_gflops == pytest.approx(200)
    assert hardware.bandwidths == (4.0, 3.0, 2.0, 1.0)


def test_a_name_changes_with_the_content() -> None:
    assert table().name == table().name != table(peak_gflops=201.0).name


def test_a_table_of_other_kernels_or_targets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    TABLE_FILE.save(table(kernels="0" * 16), path)
    with pytest.raises(CostTableError, match="other kernels") as caught:
        read_table(path, V4)
    assert "sparsecc calibrate" in str(caught.value)
    TABLE_FILE.save(table(target=dataclasses.replace(V4, ghz=1.0)), path)
    with pytest.raises(CostTableError, match="another target"):
        read_table(path, V4)


def other_hashes() -> set[str]:
    """Targets whose kernels are no longer those of the sources as they are."""
    hash_of = table_module._hash_of.__wrapped__
    compiled = {name: each for name, each in TARGETS.items() if each.family != "cuda"}
    triples = {name: measured_as(target).triple for name, target in compiled.items()}
    new = {name: hash_of(target.isas, triples[name]) for name, target in compiled.items()}
    return {name for name, target in compiled.items() if new[name] != kernels_hash(target)}


def test_the_hash_is_of_a_targets_own_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not other_hashes()
    assert len({kernels_hash(target) for target in TARGETS.values()}) == 7  # families and variants
    v4 = ISAS["x86-64-v4"]
    monkeypatch.setitem(ISAS, v4.name, dataclasses.replace(v4, tiles=v4.tiles | {1: 5}))
    assert other_hashes() == {"x86-64", "x86-64-v4", "x86-64-windows"}


def test_another_system_has_the_table_of_linux() -> None:
    served = {name: measured_as(target).name for name, target in TARGETS.items()}
    systems = dict.fromkeys(("arm64-android", "arm64-ios", "arm64-macos"), "arm64-linux")
    both = dict.fromkeys(("x86-64", "x86-64-windows"), "x86-64-v4")
    assert served == {name: name for name in TARGETS} | systems | both
    own = dataclasses.replace(TARGETS["arm64-ios"], name="mine", ghz=3.3)
    assert measured_as(own) == own


def test_the_hash_is_of_no_list_of_steps_and_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sources.read_sources() | {"more.c": "", "more.h": ""}
    monkeypatch.setattr(kernel_table, "STEPS", (*kernel_table.STEPS, "more"))
    monkeypatch.setattr(sources, "BASE", (*sources.BASE, "more.c"))
    monkeypatch.setattr(sources, "read_sources", lambda: files)
    assert not other_hashes()


def test_the_hash_of_a_gpu_is_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = TARGETS["cuda-sm_90"]
    before = kernels_hash(gpu)
    name = "attention-fp16-d64-m64"
    kernel = gpu_table.KERNELS[name]
    launches = {**kernel.launches, "sm_90": dataclasses.replace(kernel.launches["sm_90"], stages=2)}
    changed = {**gpu_table.KERNELS, name: dataclasses.replace(kernel, launches=launches)}
    monkeypatch.setattr(gpu_table, "KERNELS", changed)
    monkeypatch.setattr(table_module, "_hash_of_gpu", table_module._hash_of_gpu.__wrapped__)
    assert kernels_hash(gpu) != before


def test_what_is_assumed_of_a_gpu_holds_for_any_kernels(tmp_path: Path) -> None:
    gpu, path = TARGETS["cuda-sm_90"], tmp_path / "t.json"
    made = assumed_table(gpu)
    TABLE_FILE.save(made.model_copy(update={"kernels": "0" * 16}), path)
    assert read_table(path, gpu).gpu == made.gpu
    TABLE_FILE.save(made.model_copy(update={"kernels": "0" * 16, "derived": False}), path)
    with pytest.raises(CostTableError, match="other kernels"):
        read_table(path, gpu)


def test_only_a_gpu_has_what_is_known_of_one() -> None:
    with pytest.raises(ValueError, match="gpu is there for a GPU"):
        table(gpu=assumed_table(TARGETS["cuda-sm_90"]).gpu)


@pytest.mark.parametrize("name", ["cuda-sm_80", "cuda-sm_90"])
def test_the_shipped_table_of_a_gpu_is_what_is_assumed_and_says_so(name: str) -> None:
    """Fails when assumptions were changed: `python -m benchmarks.tables`."""
    target = TARGETS[name]
    path = shipped_path(target)
    assert path is not None
    found, wanted = read_table(path, target), assumed_table(target)
    assert found.model_copy(update={"kernels": wanted.kernels, "target": target}) == wanted
    assert found.gpu is not None
    assert {each.cases for each in found.gpu.reached.values()} == {0}


BUILT = {name for name, target in TARGETS.items() if target.isas}
OF_FILES = {
    "vec_wasm.h": {"wasm", "wasm-relaxed"},
    "vec.h": BUILT,
    "tile.c": BUILT,
    "region.c": set(),
    "extern.c": set(),
}


@pytest.mark.parametrize("name", OF_FILES)
def test_the_hash_is_of_the_files_that_are_compiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sources.read_sources()
    monkeypatch.setattr(sources, "read_sources", lambda: files)
    files[name] = files[name].replace("\n", "  /* not\n read */  // by compilers\n", 1)
    assert not other_hashes()
    files[name] += "x"
    assert other_hashes() == OF_FILES[name]


BAD = {
    "format": 7,
    "kernels": "../../x",
    "peak_gflops": -1.0,
    "rows": {"k": [[1, 2, 3]]},
    "corrections": {"no family": {}},
    "rates": {"add": {"call_ms": -1.0, "element_ns": 0.0}},
    "unknown": 1,
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(json.loads(TABLE_FILE.text(table())) | {field: BAD[field]}))
    with pytest.raises(CostTableError, match=field):
        read_table(path, V4)


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(CostTableError, match="cannot read"):
        read_table(tmp_path / "none.json", V4)
    (tmp_path / "file").write_text("")
    with pytest.raises(CostTableError, match="cannot write"):
        TABLE_FILE.save(table(), tmp_path / "file" / "t.json")


def test_several_instruction_sets_are_measured_as_the_best() -> None:
    assert measured_as(TARGETS["x86-64"]) == V4
    assert measured_as(V4) == V4
    own = dataclasses.replace(TARGETS["x86-64"], name="mine", ghz=1.0)
    assert measured_as(own) == own


@pytest.mark.parametrize("name", TARGETS)
def test_a_table_of_these_kernels_comes_with_every_target(name: str) -> None:
    """Fails when kernels were changed: calibrate, then `python -m benchmarks.tables`."""
    target = measured_as(TARGETS[name])
    path = shipped_path(target)
    assert path is not None
    found = read_table(path, target)
    assert not found.rows
    assert set(found.rates) == set(KINDS)
    assert found.derived == (not found.machine) == (not found.corrections)
    assert found.derived == (not name.startswith("x86-64"))
    assert path.stat().st_size < 1 << 20
