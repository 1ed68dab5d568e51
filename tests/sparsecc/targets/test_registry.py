from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from sparsecc import targets
from sparsecc.errors import TargetError
from sparsecc.targets import TARGETS, registry
from sparsecc.targets.cuda import arch_of_target

V3 = frozenset({"avx2", "fma", "bmi2", "f16c"})
V4 = V3 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
NO_FMA = V3 - {"fma"}

MACHINES = {
    "avx512": ("Linux", "x86_64", V4),
    "avx2": ("Linux", "x86_64", V3),
    "old": ("Linux", "x86_64", NO_FMA),
    "arm": ("Linux", "aarch64", frozenset()),
    "mac": ("Darwin", "arm64", frozenset()),
    "windows": ("Windows", "AMD64", V4),
    "old mac": ("Darwin", "x86_64", frozenset()),
    "riscv": ("Linux", "riscv64", frozenset()),
}
NATIVE = {"avx512": "x86-64-v4", "avx2": "x86-64-v3", "arm": "arm64-linux"}
RUNS = {
    "avx512": {"x86-64", "x86-64-v3", "x86-64-v4"},
    "avx2": {"x86-64", "x86-64-v3"},
    "arm": {"arm64-linux", "arm64-a55", "arm64-a76", "arm64-x1"},
    "mac": {"arm64-macos"},
    "windows": {"x86-64-windows"},
}


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    system, processor, flags = MACHINES[request.param]
    monkeypatch.setattr(registry.platform, "system", lambda: system)
    monkeypatch.setattr(registry.platform, "machine", lambda: processor)
    monkeypatch.setattr(registry, "_cpu_flags", lambda: flags)
    return str(request.param)


@pytest.mark.parametrize("machine", MACHINES, indirect=True)
def test_native_is_the_best_this_machine_runs(machine: str) -> None:
    if machine in NATIVE:
        assert targets.get("native").name == NATIVE[machine]
        return
    with pytest.raises(TargetError) as caught:
        targets.get("native")
    assert all(name in str(caught.value) for name in RUNS.get(machine, TARGETS))


@pytest.mark.parametrize("machine", MACHINES, indirect=True)
def test_what_runs_where(machine: str) -> None:
    running = {name for name, target in TARGETS.items() if targets.runs_here(target)}
    assert running == RUNS.get(machine, set())


@pytest.mark.parametrize("machine", MACHINES, indirect=True)
def test_every_named_target_can_be_compiled_for_anywhere(machine: str) -> None:
    assert [targets.get(name).name for name in TARGETS] == list(TARGETS)


@pytest.mark.parametrize("name", ["", "z80", "x86", "X86-64", "native ", "../x86-64"])
def test_an_unknown_name_is_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(TargetError, match="unknown target") as caught:
        targets.get(name)
    assert all(known in str(caught.value) for known in ("native", *TARGETS))


def test_the_targets_of_the_project() -> None:
    assert list(TARGETS) == [
        *("x86-64", "x86-64-v3", "x86-64-v4", "x86-64-windows"),
        *("arm64-linux", "arm64-a55", "arm64-a76", "arm64-x1"),
        *("arm64-android", "arm64-ios", "arm64-macos"),
        *("wasm", "wasm-relaxed", "cuda-sm_80", "cuda-sm_90"),
    ]
    assert TARGETS["x86-64"].isas == ("x86-64-v3", "x86-64-v4")
    for name, target in TARGETS.items():
        assert (target.name, target.lanes & (target.lanes - 1)) == (name, 0)
        assert min(target.ghz, target.llc_bytes, target.dram_gbs, target.fma_ports) > 0
    for one, other in itertools.combinations(TARGETS.values(), 2):
        assert one != other


def test_the_peak_is_lanes_ports_clock_and_two_flops() -> None:
    v3, gpu = TARGETS["x86-64-v3"], TARGETS["cuda-sm_90"]
    assert v3.peak_gflops == 8 * 2 * v3.ghz * 2
    assert 60_000 < gpu.peak_gflops < 67_000  # all of it; the data sheet's boost clock is higher
    assert TARGETS["arm64-x1"].peak_gflops > 2 * TARGETS["arm64-a76"].peak_gflops
    assert TARGETS["arm64-a76"].peak_gflops > 2 * TARGETS["arm64-a55"].peak_gflops


@pytest.mark.parametrize("name", TARGETS)
def test_what_cannot_be_built_for_says_so(name: str) -> None:
    target = TARGETS[name]
    families = ("x86-64", "arm64", "cuda")
    assert targets.is_buildable(target) == (target.family in families or name == "wasm")
    if targets.is_buildable(target):
        assert targets.buildable(target) is target
        return
    with pytest.raises(TargetError, match=f"no backend can build for {name} yet") as caught:
        targets.buildable(target)
    assert "x86-64-v4" in str(caught.value)
    assert not targets.runs_here(target)


def test_a_users_own_file_is_a_target(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    own = dataclasses.replace(TARGETS["arm64-a76"], name="my-board", ghz=1.5)
    path.write_text(own.to_json())
    assert targets.read(str(path)) == own
    assert targets.read("wasm") is TARGETS["wasm"]
    path.write_text(TARGETS["wasm"].to_json())
    assert targets.read(str(path)) == TARGETS["wasm"]
    for name in ("native", "wasm"):
        path.write_text(dataclasses.replace(own, name=name).to_json())
        with pytest.raises(TargetError, match="the name of another target"):
            targets.read(str(path))
    with pytest.raises(TargetError, match="unknown target"):
        targets.get(str(path))


def test_flags_are_those_of_the_first_processor(tmp_path, monkeypatch) -> None:
    text = "processor : 0\nflags\t\t: fpu avx2 fma\n\nprocessor : 1\nflags : none\n"
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    monkeypatch.setattr(registry, "Path", lambda _: file)
    read = registry._cpu_flags.__wrapped__
    assert read() == {"fpu", "avx2", "fma"}
    file.write_text("processor : 0\nFeatures : fp asimd\n")
    assert read() == frozenset()
    file.unlink()
    assert read() == frozenset()


def test_an_artifacts_target_is_what_it_describes_or_else_its_name() -> None:
    mine = dataclasses.replace(targets.get("x86-64-v4"), name="mine", threads=3)
    assert targets.described("mine", json.loads(mine.to_json())) == mine
    assert targets.described("x86-64-v3", {}) is targets.get("x86-64-v3")
    with pytest.raises(TargetError, match="is for 'yours' and describes 'mine'"):
        targets.described("yours", json.loads(mine.to_json()))
    with pytest.raises(TargetError, match="the artifact's target"):
        targets.described("mine", {"name": "mine"})


@pytest.mark.parametrize(
    ("arch", "device", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_80", (9, 0), False),
        ("sm_90", (8, 0), False),
        ("sm_90", (9, 0), True),
        ("sm_90", None, False),
    ],
)
def test_machine_code_runs_within_a_major_version(
    monkeypatch: pytest.MonkeyPatch, arch: str, device: tuple[int, int] | None, runs: bool
) -> None:
    monkeypatch.setattr(registry, "capability", lambda: device)
    monkeypatch.setattr(registry, "_here", lambda: registry.GPU_HOST)
    assert registry.runs_here(TARGETS[f"cuda-{arch}"]) == runs


def test_a_gpu_that_only_times_are_known_of_is_not_built_for() -> None:
    gpu = dataclasses.replace(TARGETS["cuda-sm_90"], name="mine")
    with pytest.raises(TargetError, match="mine"):
        registry.buildable(gpu)
    with pytest.raises(TargetError, match="use one of tvm"):
        registry.with_backend(TARGETS["cuda-sm_90"], "onnxruntime")


@pytest.mark.parametrize("name", ["cuda-sm_75", "cuda-sm_100", "cuda-sm_90a"])
def test_a_gpu_without_kernels_is_an_error_that_names_those_with(name: str) -> None:
    with pytest.raises(TargetError, match=f"no kernels for the GPU of '{name}'") as caught:
        targets.get(name)
    assert caught.value.fix == "use cuda-sm_80 or cuda-sm_90"


def test_the_architecture_of_a_gpu_stands_in_its_name() -> None:
    own = dataclasses.replace(TARGETS["cuda-sm_90"], name="my-h200-sm_90")
    assert arch_of_target(own) == "sm_90"
    for name in ("my-h200", "my-sm_120"):
        with pytest.raises(TargetError, match=f"{name} names no GPU architecture") as caught:
            arch_of_target(dataclasses.replace(own, name=name))
        assert caught.value.fix == "end its name with one of sm_80, sm_90"
