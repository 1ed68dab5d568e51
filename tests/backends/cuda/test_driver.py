"""What is told to the driver of CUDA, beside a library that keeps what it is told."""

import ctypes
import dataclasses
import platform

import pytest

from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached
from sparsecc.backends.cuda import driver
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError
from tests.backends.cuda.tools import needs_gcc

pytestmark = needs_gcc

NAME = "bitmap-fp16-n64"
KEEPS = """
#include <stdint.h>
int entered, loaded, most, refuses;
uint64_t told[8], given[16];
int cuCtxGetCurrent(void **context) { *context = entered ? &entered : 0; return 0; }
int cuDeviceGet(int *device, int number) { *device = 10 + number; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &told[device]; return 0; }
int cuCtxSetCurrent(void *context) { entered = (int)((uint64_t *)context - told); return 0; }
int cuModuleLoadData(void **module, const char *code) {
    *module = &loaded;
    ++loaded;
    return code[0] == 0x7f && code[1] == 'E' ? 0 : 1;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = &most;
    return module == &loaded && name[0] == 'b' ? 0 : 2;
}
int cuFuncSetAttribute(void *function, int which, int bytes) {
    most = bytes;
    return function == &most && which == 8 ? 0 : 3;
}
int cuGetErrorString(int status, const char **said) { *said = "it refuses"; return 0; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
    uint64_t all[8] = {gx, gy, gz, bx, by, bz, shared, (uint64_t)stream};
    for (int at = 0; at < 8; ++at) told[at] = all[at];
    for (int at = 0; at < 5; ++at) given[at] = *(uint64_t *)parameters[at];
    for (int at = 5; at < 9; ++at) given[at] = *(uint32_t *)parameters[at];
    return refuses || extra || function != &most;
}
"""


@pytest.fixture
def library(monkeypatch):
    triple = f"{platform.machine()}-linux-gnu"
    flags = ("-O1", "-fPIC")
    build = Build(
        "libkeeps.so", triple, {"keeps.c": KEEPS}, (Unit("keeps.c"),), flags, ("-shared",)
    )
    path = str(build_cached(build))
    made = ctypes.CDLL(path)
    monkeypatch.setattr(driver, "LIBRARY", path)
    for each in ("entered", "loaded", "most", "refuses"):
        ctypes.c_int.in_dll(made, each).value = 0
    monkeypatch.setattr(driver, "_LOADED", {})
    driver._driver.cache_clear()
    yield made
    driver._driver.cache_clear()


def start(kernel=KERNELS[NAME]):
    values = [ctypes.c_void_p(2**40 + 16 * each) for each in range(5)]
    values += [ctypes.c_int32(each) for each in (5, 6, 7, -1)]
    driver.start(kernel, "sm_90", 3, (4, 2), values, 99)


def test_a_launch_says_all_that_a_kernel_needs(library):
    start()
    told = list((ctypes.c_uint64 * 8).in_dll(library, "told"))
    how = KERNELS[NAME].launch("sm_90")
    assert told == [4, 2, 1, 32 * how.warps, 1, 1, how.shared, 99]
    given = list((ctypes.c_uint64 * 9).in_dll(library, "given"))
    assert given == [*(2**40 + 16 * each for each in range(5)), 5, 6, 7, 2**32 - 1]
    assert ctypes.c_int.in_dll(library, "most").value == how.shared > 48 << 10
    assert ctypes.c_int.in_dll(library, "entered").value == 13  # the context of device 3


def test_code_is_loaded_once(library):
    start()
    start()
    assert ctypes.c_int.in_dll(library, "loaded").value == 1
    start(dataclasses.replace(KERNELS[NAME]))  # a variant, for all that is known
    assert ctypes.c_int.in_dll(library, "loaded").value == 2


def test_a_driver_that_refuses_or_is_missing(library, monkeypatch):
    ctypes.c_int.in_dll(library, "refuses").value = 1
    with pytest.raises(BackendError, match=r"cuLaunchKernel fails: it refuses \(1\)"):
        start()
    driver._driver.cache_clear()
    monkeypatch.setattr(driver, "LIBRARY", "libnothing.so.1")
    with pytest.raises(BackendError, match=r"no driver of CUDA: libnothing"):
        start()
