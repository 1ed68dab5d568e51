"""Small models that are published for the tests, and what they answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

import sparsecc
from sparsecc import targets
from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.bundle.whole import Extern, Port, Whole
from sparsecc.backends.codegen.program import Program, Step
from sparsecc.backends.web.build import write_module
from tests import small
from tests.passes.attention import moving

PICTURES, NUMBERS, SAMPLING = "pictures", "numbers", "sampling"
RUNS, STEPS = 3, 5

OUTER = """\
#include "extern.h"
typedef const sc_tensor *const *ins;
typedef sc_tensor *const *outs;
static const char *infer(ins in, const sc_constant *constants, outs out)
{
  (void)constants;
  out[0]->type = SC_F32, out[0]->layout = SC_PLAIN, out[0]->rank = 2;
  out[0]->dims[0] = 2, out[0]->dims[1] = in[0]->dims[1] * in[0]->dims[1];
  *out[1] = *in[1], out[1]->data = 0;
  return 0;
}
static int run(ins in, const sc_constant *constants, outs out, const sc_call *call)
{
  (void)call;
  const float *x = in[0]->data, *bias = constants[0].data;
  const i64 k = *(i64 *)in[1]->data, n = in[0]->dims[1];
  float *y = out[0]->data;
  for (i64 r = 0; r < 2; r++, x += n)
    for (i64 i = 0; i < n * n; i++) *y++ = x[i / n] * x[i % n] * (float)k + bias[r];
  *(i64 *)out[1]->data = k * 2;
  return SC_OK;
}
const sc_extern sc_extern_outer = {"outer", infer, run};
"""
"""x [2, n] and k [1] → x xᵀ k + bias by row [2, n²], and 2 k."""
BIAS = np.array([0.5, -2.25], np.float32)


def numbers() -> Whole:
    """A model with 64-bit integers and an open dimension, whose output grows with its square."""
    outer = Step("extern", "outer", ("x", "k"), ("y", "twice"), ("bias",), (0,))
    return Whole(
        inputs=(Port("x", "float32", (2, "n")), Port("k", "int64", (1,))),
        outputs=(Port("y", "float32", (2, "n·n")), Port("twice", "int64", (1,))),
        program=Program(("x", "k"), ("y", "twice"), (outer,)),
        constants={"bias": BIAS},
        externs=(Extern("outer", OUTER),),
    )


def outer(x: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """What :func:`numbers` answers, in float64."""
    wide = x.astype(np.float64)
    square = wide[:, :, None] * wide[:, None, :] * k
    return (square.reshape(2, -1) + BIAS[:, None]).astype(np.float32)


def publish_all(root: Path) -> None:
    """Folders of all models, broken copies of one, and ``cases.json``: what JavaScript checks."""
    model = small.mobilenet("4x1:0.8")
    sparsecc.compile(model, target="wasm", name=PICTURES).save(root / PICTURES)
    sparsecc.compile(
        moving.exported(True),
        target="wasm",
        name=SAMPLING,
        sparsity="dense",
        attention=moving.GRID.spec,
        online=str(STEPS),
        executor="serial",
    ).save(root / SAMPLING)
    (root / NUMBERS).mkdir()
    whole = numbers()
    build_bundle(whole, targets.get("wasm"), NUMBERS, root / NUMBERS)
    write_module(root / NUMBERS, NUMBERS, whole.inputs, whole.outputs)
    _broken(root)
    session = ort.InferenceSession(model.SerializeToString())
    pictures = [small.image(seed) for seed in range(RUNS)]
    answers = [session.run(None, {"image": picture})[0] for picture in pictures]
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((2, n)).astype(np.float32) for n in (3, 1, 17)]
    factors = (3, -(1 << 40), 1)
    cases = {
        PICTURES: [
            {"feeds": {"image": _plain(x)}, "answers": {"output": _plain(y)}}
            for x, y in zip(pictures, answers, strict=True)
        ],
        NUMBERS: [
            {
                "feeds": {"x": _plain(x), "k": _plain(np.array([k]))},
                "answers": {"y": _plain(outer(x, k)), "twice": _plain(np.array([2 * k]))},
            }
            for x, k in zip(rows, factors, strict=True)
        ],
    }
    (root / "cases.json").write_text(json.dumps(cases))


def _broken(root: Path) -> None:
    weights = (root / NUMBERS / "weights.bin").read_bytes()
    foreign = (root / PICTURES / "weights.bin").read_bytes()
    flipped = weights[:-1] + bytes([weights[-1] ^ 1])
    header = weights[:16] + bytes([weights[16] ^ 1]) + weights[17:]
    copies = {"flipped": flipped, "header": header, "short": weights[:-64], "foreign": foreign}
    for name, content in copies.items():
        shutil.copytree(root / NUMBERS, root / name)
        (root / name / "weights.bin").write_bytes(content)
    shutil.copytree(root / NUMBERS, root / "missing")
    (root / "missing" / "weights.bin").unlink()
    shutil.copytree(root / NUMBERS, root / "code")
    for module in (root / "code").glob("*.wasm"):
        module.write_bytes(b"\0asm\1\0\0\0garbage")
    for name in ("cut", "swapped"):
        shutil.copytree(root / NUMBERS, root / name)
    for module in (root / "cut").glob("*.wasm"):
        module.write_bytes(module.read_bytes()[:-1000])
        shutil.copyfile(root / PICTURES / module.name, root / "swapped" / module.name)


def _plain(array: NDArray[Any]) -> dict[str, Any]:
    """As JSON holds it; 64-bit integers as text."""
    integers = array.dtype == np.int64
    data = [str(value) for value in array.ravel()] if integers else array.ravel().tolist()
    return {"type": str(array.dtype), "dims": list(array.shape), "data": data}
