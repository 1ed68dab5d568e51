"""The emulator of CUDA C++: what it computes, and the mistakes it finds."""

import math

import numpy as np
import pytest
import torch

from sparsecc.backends.cuda import nvcc
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.kernel import Kernel, Launch
from sparsecc.errors import BackendError

HEAD = '#include "device.h"\nKERNEL(probe, const u16* X, float* Y, int n) {\n'
HEAD += "    SHARED_MEMORY(memory);\n    int me = threadIdx.x;\n    (void)memory, (void)me;\n"


def probe(body, monkeypatch, warps=2, shared=4096, x=None, y=None, arguments=None):
    """Runs a kernel of this body over one block."""
    headers = {name: text for name, text in nvcc.sources("bitmap").items() if name.endswith(".h")}
    monkeypatch.setattr(nvcc, "sources", lambda _: {"probe.cu": HEAD + body + "}\n", **headers})
    kernel = Kernel(
        name="probe",
        module="probe",
        function="probe",
        arguments=arguments or {"X": "*fp16", "Y": "*fp32", "n": "i32"},
        constants={"BFLOAT": 0},
        launches={"sm_80": Launch({}, warps, 1, 255, shared)},
        language="cuda",
    )
    x = torch.arange(512, dtype=torch.float16) if x is None else x
    y = torch.full((256,), math.nan) if y is None else y
    interpret(kernel, "sm_80", (1,), {"X": x, "Y": y, "n": len(y)})
    return y.numpy()


COPY = "copy_async(memory + 16 * me, X + 8 * me); copy_commit();"
SECOND = "emulator::widened(reinterpret_cast<u16*>(memory)[8 * (me ^ 63)], BFLOAT)"


def test_threads_share_memory(monkeypatch):
    body = COPY + f"copy_wait<0>(); barrier(); Y[me] = {SECOND};"
    y = probe(body, monkeypatch)
    assert np.array_equal(y[:64], 8.0 * np.arange(63, -1, -1))
    assert np.isnan(y[64:]).all()


@pytest.mark.parametrize("after", ["barrier();", "copy_wait<1>(); barrier();", "copy_wait<0>();"])
def test_a_copy_that_is_not_waited_for_is_not_there(after, monkeypatch):
    y = probe(COPY + after + f"Y[me] = {SECOND};", monkeypatch)
    assert np.isnan(y[:64]).any()


def test_a_copy_destroys_what_others_still_read(monkeypatch):
    again = "copy_async(memory + 16 * me, X);"
    body = COPY + "copy_wait<0>(); barrier();" + again + f"Y[me] = {SECOND};"
    assert np.isnan(probe(body, monkeypatch)[:64]).any()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("if (me < 32) barrier();", "wait for others that have ended"),
        ("if (me < 40) barrier(); else\n barrier();", "at different lines"),
        ("if (me % 2) shuffle(me, 0); else\n shuffle(me, 1);", "at different lines"),
        ("if (me % 2) return; warp_barrier();", "wait for others that have ended"),
        ("memory[SHARED] = 0;", "more shared memory is written"),
        ("Y[n] = 0;", "writes outside of Y"),
        ("Y[-1] = 0;", "writes outside of Y"),
        ("copy_async(memory + 8, X);", "not aligned"),
    ],
)
def test_mistakes_are_found(body, said, monkeypatch):
    with pytest.raises(AssertionError, match=said):
        probe(body, monkeypatch)


def test_a_kernel_that_was_wrong_leaves_the_next_one_alone(monkeypatch):
    with pytest.raises(AssertionError):
        probe("if (me < 32) barrier();", monkeypatch)
    assert probe("barrier(); Y[me] = me;", monkeypatch)[63] == 63


def test_shuffles_and_counts(monkeypatch):
    body = "Y[me] = shuffle(me, me + 1); Y[me + 64] = summed_up(me); Y[me + 128] = popcount(me);"
    y = probe(body, monkeypatch)
    lanes = np.arange(64)
    assert np.array_equal(y[:64], lanes // 32 * 32 + (lanes + 1) % 32)
    assert np.array_equal(y[64:128], np.cumsum(lanes.reshape(2, 32), 1).ravel())
    assert np.array_equal(y[128:192], [bin(each).count("1") for each in lanes])


def test_numbers_of_16_bits_are_rounded_as_torch_does(monkeypatch):
    edges = [0.0, -0.0, 1e-8, 2.0**-25, 3 * 2.0**-26, 2.0**-24, 6e-5, 65519.0, 65520.0, math.inf]
    torch.manual_seed(0)
    draws = torch.randn(246) * torch.logspace(-9, 5, 246)
    y = torch.cat([torch.tensor(edges), draws]).float()
    body = "for (int at = me; at < n; at += 64) Y[at] = emulator::widened(rounded(Y[at]), BFLOAT);"
    wanted = y.half().float().numpy()
    assert np.array_equal(probe(body, monkeypatch, y=y), wanted)


def test_a_product_of_matrices_loaded_from_rows(monkeypatch):
    """A is rows 0 to 15 of 32 bytes each, B is columns, behind it."""
    body = """
        for (int at = me; at < 16 * 16 + 8 * 16; at += 32)
            reinterpret_cast<u16*>(memory)[at] = X[at];
        barrier();
        u32 a[4], b[2];
        load_matrices(a, memory + (me % 16) * 32 + me / 16 * 16);
        load_matrices(b, memory + 512 + (me % 8) * 32 + me / 8 % 2 * 16);
        float c[4] = {1, 1, 1, 1};
        multiply_dense(c, a, b);
        for (int at = 0; at < 4; ++at)
            Y[(me / 4 + at / 2 * 8) * 8 + me % 4 * 2 + at % 2] = c[at];
    """
    torch.manual_seed(0)
    x = torch.randn(512).half()
    y = probe(body, monkeypatch, warps=1, x=x)[:128].reshape(16, 8)
    a, b = x[:256].reshape(16, 16).double(), x[256:384].reshape(8, 16).double()
    assert np.abs(y - (1 + a @ b.T).numpy()).max() < 1e-5


def test_arguments_that_do_not_fit(monkeypatch):
    with pytest.raises(BackendError, match=r"wants float16 for X, which is torch\.float32"):
        probe("", monkeypatch, x=torch.zeros(512))
    with pytest.raises(BackendError, match="wants Y without gaps"):
        probe("", monkeypatch, y=torch.zeros(8, 2)[:, 0])
    with pytest.raises(BackendError, match="wants X without gaps, at a multiple of 16 bytes"):
        probe("", monkeypatch, x=torch.zeros(513).half()[1:])
    swapped = {"Y": "*fp32", "X": "*fp16", "n": "i32"}
    with pytest.raises(AssertionError, match="other arguments than its function"):
        probe("", monkeypatch, arguments=swapped)
