import pytest

pytest.importorskip("triton")

from sparsecc.backends.cuda import build as building
from sparsecc.backends.cuda import load
from sparsecc.backends.cuda.build import build
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError, TargetError
from tests.backends.cuda.tools import needs_gcc

BUILT = {name: [needs_gcc] if kernel.language == "cuda" else [] for name, kernel in KERNELS.items()}
EVERY = [
    pytest.param(name, arch, marks=BUILT[name])
    for name, kernel in KERNELS.items()
    for arch in kernel.launches
]
TWO = ("attention-fp16-d64-m64", "bitmap-fp16-n8")


@pytest.mark.parametrize(("name", "arch"), EVERY)
def test_needs_what_the_table_says(name, arch):
    launch, made = KERNELS[name].launch(arch), build(KERNELS[name], arch)
    assert made.registers <= launch.registers
    assert made.shared == launch.shared
    assert made.stack == 0
    assert made.code.startswith(b"\x7fELF")
    assert made.symbol.encode() in made.code


@pytest.mark.parametrize("name", [pytest.param(each, marks=BUILT[each]) for each in TWO])
def test_same_row_same_bytes(name, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    first = build(KERNELS[name], "sm_80")
    monkeypatch.setattr(building, "_BUILDS", {})
    assert build(KERNELS[name], "sm_80") == first  # from the cache
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-G")
    assert build(KERNELS[name], "sm_80") == first
    assert str(tmp_path).encode() not in first.code


def test_an_architecture_that_is_not_there():
    with pytest.raises(TargetError, match="sm_75") as caught:
        build(next(iter(KERNELS.values())), "sm_75")
    assert "sm_80, sm_90" in str(caught.value)


def test_triton_is_missing_or_another(monkeypatch):
    kernel = next(iter(KERNELS.values()))
    monkeypatch.setattr(load, "PIN", "0.1")
    with pytest.raises(BackendError, match=r"triton 0\.1; here is"):
        build(kernel, "sm_90")
    load.load.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    with pytest.raises(BackendError, match=r"sparsecc\[gpu\]"):
        load.load()
    monkeypatch.undo()
    load.load.cache_clear()


def test_nvcc_is_missing_or_another_or_has_no_compiler(monkeypatch, tmp_path):
    kernel = KERNELS["bitmap-fp16-n8"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load.nvcc.cache_clear()
    monkeypatch.setitem(load.NVCC_PINS, "nvidia-nvvm", "13.0.1")
    with pytest.raises(BackendError, match=r"nvidia-nvvm 13\.0\.1; here is 13\.0\.88"):
        build(kernel, "sm_90")
    monkeypatch.setitem(load.NVCC_PINS, "nvidia-nothing", "13.0.88")
    monkeypatch.delitem(load.NVCC_PINS, "nvidia-nvvm")
    with pytest.raises(BackendError, match="need nvidia-nothing") as caught:
        build(kernel, "sm_90")
    assert "pip install 'sparsecc[gpu]'" in str(caught.value)
    monkeypatch.delitem(load.NVCC_PINS, "nvidia-nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="cannot build bitmap-fp16-n8") as caught:
        build(kernel, "sm_90")
    assert "install gcc" in str(caught.value)
    load.nvcc.cache_clear()
