"""Where the execution provider cannot serve: old runtimes, other processors. A status, no crash."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest

from sparsecc import targets
from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached
from sparsecc.backends.onnxruntime.library import UNITS, library_build

TARGET = targets.get("x86-64")


CREATE_STATUS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
GET_EP_API = ctypes.CFUNCTYPE(ctypes.c_void_p)
SLOTS, EP_SLOT = 400, 317


@pytest.mark.parametrize("newest", [0, 1, 20, 23, 24])
def test_older_runtimes_get_a_clear_status(library: Path, newest: int) -> None:
    """Up to API 23 there is no such version; one that has it may still offer no providers."""
    said: list[bytes] = []
    create_status = CREATE_STATUS(lambda _, text: said.append(text) or 1)
    no_providers = GET_EP_API(lambda: None)
    table = (ctypes.c_void_p * SLOTS)()
    table[0] = ctypes.cast(create_status, ctypes.c_void_p)
    table[EP_SLOT] = ctypes.cast(no_providers, ctypes.c_void_p)
    address = ctypes.addressof(table)
    get_api = GET_API(lambda version: address if version <= newest else None)
    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p))
    create = ctypes.CDLL(str(library)).CreateEpFactories
    create.restype = ctypes.c_void_p
    found, out = ctypes.c_size_t(7), (ctypes.c_void_p * 1)()
    status = create(b"x", base, None, out, ctypes.c_size_t(1), ctypes.byref(found))
    assert found.value == 0
    assert status == (1 if newest else None)
    assert len(said) == (1 if newest else 0)
    for text in said:
        assert b"needs ONNX Runtime 1.24 or newer" in text
        assert b"compile the model with sparsecc and use the custom-op library" in text


SHIM = """
#include "cpu.h"
#include "ep_abi.h"
const sc_isa *sc_pick_isa(void) { return 0; }
const char *sc_cpu_needs(void) { return "everything"; }
ort_status CreateEpFactories(const char *, const ort_base *, ort_ptr, ort_ptr *, u64, u64 *);
__attribute__((visibility("default"))) ort_status RegisterCustomOps(ort_ptr o, const ort_base *base)
{
  ort_ptr factory;
  u64 found;
  (void)o;
  return CreateEpFactories("x", base, 0, &factory, 1, &found);
}
"""


@pytest.fixture(scope="module")
def shim() -> Path:
    """The provider on a CPU without kernels, offered as custom ops: every runtime loads these."""
    names = ["shim.c", "check.c", "layer.c", *(unit for unit in UNITS if unit.startswith("ep"))]
    sources = library_build(TARGET).sources | {"shim.c": SHIM}
    shimmed = tuple(Unit(name) for name in names)
    return build_cached(Build("libshim.so", TARGET.triple, sources, shimmed))


def test_the_old_runtime_itself_is_told(shim: Path, old_python: Path) -> None:
    program = (
        "import onnxruntime, sys\n"
        "onnxruntime.SessionOptions().register_custom_ops_library(sys.argv[1])\n"
    )
    command = [str(old_python), "-c", program, str(shim)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1  # an exception, no crash
    assert "needs ONNX Runtime 1.24 or newer" in done.stderr


def test_a_processor_without_kernels_is_told(shim: Path) -> None:
    with pytest.raises(Exception, match="needs a CPU with everything; fix: run the model"):
        ort.SessionOptions().register_custom_ops_library(str(shim))
