import pytest

pytest.importorskip("triton")

from sparsecc.backends.cuda import build as building
from sparsecc.backends.cuda import load
from sparsecc.backends.cuda.build import build
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError, TargetError

EVERY = [(name, arch) for name, kernel in KERNELS.items() for arch in kernel.launches]


@pytest.mark.parametrize(("name", "arch"), EVERY)
def test_needs_what_the_table_says(name, arch):
    launch, made = KERNELS[name].launch(arch), build(KERNELS[name], arch)
    assert made.registers <= launch.registers
    assert made.shared == launch.shared
    assert made.stack == 0
    assert made.code.startswith(b"\x7fELF")
    assert made.symbol.encode() in made.code


def test_same_row_same_bytes(monkeypatch, tmp_path):
    name, arch = EVERY[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    first = build(KERNELS[name], arch)
    monkeypatch.setattr(building, "_build", None)
    assert build(KERNELS[name], arch) == first  # from the cache
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert build(KERNELS[name], arch) == first
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
