"""The custom-op library inside ONNX Runtime: right on good models, plain about bad ones."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.formats.blocks import BlockWeight, pack_blocks

Array = NDArray[Any]


@pytest.fixture(scope="module")
def library() -> Path:
    target = targets.TARGETS["x86-64"]
    if not targets.runs_here(target):
        pytest.skip("this machine does not run x86-64")
    return build_library(target)


@dataclass(frozen=True)
class Node:
    """A model of one sparse node."""

    op_type: str
    weight: BlockWeight
    attributes: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, Array] = field(default_factory=dict)
    fed: frozenset[str] = frozenset()

    def initializers(self) -> dict[str, Array]:
        bias = np.linspace(-1, 1, self.weight.shape[0], dtype=np.float32)
        return ops.packed_arrays(self.weight) | {"bias": bias} | self.replaced

    def model(self) -> bytes:
        """The ONNX file; initializers named in ``fed`` become inputs instead."""
        names = ops.input_names(self.op_type)
        node = helper.make_node(
            self.op_type, names, ["Y"], "layer.1", domain=ops.DOMAIN, **self.attributes
        )
        arrays = self.initializers()
        inputs = [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(arrays[name].dtype)
                if name in arrays
                else TensorProto.FLOAT,
                None,
            )
            for name in names
            if name not in arrays or name in self.fed
        ]
        kept = [numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in self.fed]
        output = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "g", inputs, [output], kept)
        imports = [helper.make_opsetid("", 18), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=9)
        return model.SerializeToString()

    def evaluate(self, x: Array, residual: Array | None = None) -> Array:
        bias = self.initializers()["bias"]
        call = ops.Call(x, self.weight, bias, self.attributes, residual)
        return ops.evaluate(self.op_type, call)


def session(model: bytes, library: Path, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def floats(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WINDOW = {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}


def conv(op_type: str = "SparseConv", **attributes: Any) -> Node:
    weight = floats(0, 12, 3, 3, 8)
    weight[:, ::2] = 0
    return Node(op_type, pack_blocks(weight, (4, 1)), WINDOW | attributes)


def matmul(op_type: str = "SparseMatMul") -> Node:
    weight = floats(1, 10, 24)
    weight[:, ::3] = 0
    return Node(op_type, pack_blocks(weight, (4, 1)))


@pytest.mark.parametrize("op_type", list(ops.VARIANTS))
def test_every_variant_is_its_numpy_meaning(library: Path, op_type: str) -> None:
    what = ops.parse(op_type)
    node = conv(op_type) if what.base == "SparseConv" else matmul(op_type)
    shape = (2, 8, 9, 7) if what.base == "SparseConv" else (2, 3, 24)
    out = (2, 12, 9, 7) if what.base == "SparseConv" else (2, 3, 10)
    feed = {"X": floats(2, *shape)}
    if what.residual:
        feed["residual"] = floats(3, *out)
    (got,) = session(node.model(), library).run(None, feed)
    want = node.evaluate(feed["X"], feed.get("residual"))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_sizes_may_change_between_calls(library: Path, threads: int) -> None:
    convs, matmuls = (session(n.model(), library, threads) for n in (conv(), matmul()))
    for size in (5, 40, 1, 17, 5, 33, 2, 3, 4, 6, 7, 8):
        x = floats(size, 2, 8, size, size + 1)
        np.testing.assert_allclose(convs.run(None, {"X": x})[0], conv().evaluate(x), atol=1e-4)
        x = floats(size, size * size, 24)
        got = matmuls.run(None, {"X": x})[0]
        np.testing.assert_allclose(got, matmul().evaluate(x), atol=1e-4)


def test_ranks_of_a_matmul_and_no_tokens_at_all(library: Path) -> None:
    runs = session(matmul().model(), library)
    for shape in ((24,), (5, 24), (2, 1, 3, 24), (0, 24)):
        x = floats(4, *shape)
        np.testing.assert_allclose(runs.run(None, {"X": x})[0], matmul().evaluate(x), atol=1e-4)


def test_one_session_serves_many_threads(library: Path) -> None:
    runs = session(conv("SparseConv_silu").model(), library, threads=2)
    images = [floats(i, 1, 8, 10 + i % 5, 12) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: runs.run(None, {"X": x})[0], images))
    node = conv("SparseConv_silu")
    for x, got in zip(images, results, strict=True):
        np.testing.assert_allclose(got, node.evaluate(x), atol=1e-4)


def _packed(node: Node, **changed: Array) -> Node:
    return replace(node, replaced=changed)


def _int64(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


BAD_MODELS = {
    "index repeated": (
        lambda: _packed(conv(), index=np.zeros_like(conv().weight.index)),
        r"layer\.1.*strictly ascending.*shape \[12, 3, 3, 8\], grid \[3, 72, 4, 1\].*fix:",
    ),
    "index outside": (
        lambda: _packed(conv(), index=conv().weight.index + 3 * 72),
        "outside the block grid",
    ),
    "index negative": (lambda: _packed(conv(), index=conv().weight.index - 99), "not negative"),
    "grid of another shape": (lambda: _packed(conv(), grid=_int64(2, 72, 4, 1)), "grid does not"),
    "grid of three": (lambda: _packed(conv(), grid=_int64(3, 72, 4)), r"grid has shape \[3\]"),
    "grid overflow": (
        lambda: _packed(conv(), grid=_int64(2**62, 2**62, 2**62, 2**62)),
        "block is outside",
    ),
    "shape of two": (lambda: _packed(conv(), shape=_int64(12, 72)), r"shape has shape \[2\]"),
    "shape negative": (lambda: _packed(conv(), shape=_int64(12, -3, 3, 8)), "outside 1..1024"),
    "shape huge": (
        lambda: _packed(matmul(), shape=_int64(10, 2**62)),
        "empty or huge dimension",
    ),
    "values of one block short": (
        lambda: _packed(conv(), values=conv().weight.values[:-1]),
        "values has shape",
    ),
    "bias too short": (
        lambda: _packed(matmul(), bias=np.zeros(9, np.float32)),
        r"bias has shape \[9\]",
    ),
    "group": (lambda: conv(group=5), "group does not divide"),
    "group zero": (lambda: conv(group=0), "group does not divide"),
    "stride zero": (lambda: conv(strides=[0, 1]), "strides must be within"),
    "pads negative": (lambda: conv(pads=[-1, 0, 0, 0]), "pads must be within"),
    "dilation zero": (lambda: conv(dilations=[1, 0]), "dilations must be within"),
    "pads of two": (lambda: conv(pads=[1, 1]), "attribute pads must be a list of 4"),
    "no strides": (
        lambda: replace(conv(), attributes={k: WINDOW[k] for k in WINDOW if k != "strides"}),
        "attribute strides",
    ),
    "no group": (
        lambda: replace(conv(), attributes={k: WINDOW[k] for k in WINDOW if k != "group"}),
        "attribute group is missing",
    ),
    "weights fed": (
        lambda: replace(conv(), fed=frozenset({"values"})),
        "values is not a constant.*must be initializers",
    ),
}


@pytest.mark.parametrize("name", list(BAD_MODELS))
def test_a_bad_model_is_refused_by_name(library: Path, name: str) -> None:
    make, message = BAD_MODELS[name]
    with pytest.raises(Exception, match=message):
        session(make().model(), library)


BAD_CALLS = {
    "channels": (conv(), {"X": (1, 7, 5, 5)}, r"layer\.1.*\[1, 7, 5, 5\].*\[N, 8, H, W\].*fix:"),
    "rank": (conv(), {"X": (8, 5, 5)}, r"X has shape \[8, 5, 5\]"),
    "too small": (conv(pads=[0] * 4), {"X": (1, 8, 2, 5)}, "window fits into"),
    "features": (matmul(), {"X": (3, 23)}, r"expected \[\.\.\., 24\]"),
    "scalar": (matmul(), {"X": ()}, r"X has shape \[\]"),
    "residual": (
        matmul("SparseMatMul_add"),
        {"X": (3, 24), "residual": (1, 10)},
        r"residual has shape \[1, 10\], expected \[3, 10\]",
    ),
    "residual rank": (
        conv("SparseConv_add"),
        {"X": (1, 8, 5, 5), "residual": (12, 5, 5)},
        r"residual has shape \[12, 5, 5\]",
    ),
}


@pytest.mark.parametrize("name", list(BAD_CALLS))
def test_a_bad_call_is_refused_by_name(library: Path, name: str) -> None:
    node, shapes, message = BAD_CALLS[name]
    runs = session(node.model(), library)
    with pytest.raises(Exception, match=message):
        runs.run(None, {key: np.asarray(floats(0, *shape)) for key, shape in shapes.items()})


def test_a_copy_can_be_put_into_a_folder(library: Path, tmp_path: Path) -> None:
    copy = build_library(targets.TARGETS["x86-64"], tmp_path / "new")
    assert copy == tmp_path / "new" / "libsparsecc-x86-64.so"
    assert copy.read_bytes() == library.read_bytes()


def test_a_library_of_one_variant_works(tmp_path: Path) -> None:
    target = targets.TARGETS["x86-64-v3"]
    if not targets.runs_here(target):
        pytest.skip("this CPU does not run x86-64-v3")
    x = floats(5, 1, 8, 20, 20)
    (got,) = session(conv().model(), build_library(target, tmp_path)).run(None, {"X": x})
    np.testing.assert_allclose(got, conv().evaluate(x), atol=1e-4)


OLD_SCRIPT = """
import sys, numpy as np, onnxruntime as ort
assert ort.__version__.startswith("1.20"), ort.__version__
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.save(sys.argv[4], session.run(None, {"X": np.load(sys.argv[3])})[0])
"""


def test_the_same_library_serves_onnxruntime_1_20(
    library: Path, old_python: Path, tmp_path: Path
) -> None:
    x = floats(6, 1, 8, 14, 14)
    names = [tmp_path / name for name in ("model.onnx", "x.npy", "y.npy")]
    names[0].write_bytes(conv("SparseConv_relu").model())
    np.save(names[1], x)
    arguments = [str(names[0]), str(library), str(names[1]), str(names[2])]
    subprocess.run([old_python, "-c", OLD_SCRIPT, *arguments], check=True, env={"PATH": ""})
    np.testing.assert_allclose(
        np.load(names[2]), conv("SparseConv_relu").evaluate(x), rtol=1e-5, atol=1e-4
    )


def test_a_runtime_that_is_too_old_is_told(library: Path) -> None:
    """A base that has no interface 18 but an older one: the status must not be success."""
    script = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
made = []
status_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
@status_type
def create_status(code, text):
    made.append(text.decode())
    return 1
api = (ctypes.c_void_p * 400)(ctypes.cast(create_status, ctypes.c_void_p).value)
@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
def get_api(version):
    return ctypes.addressof(api) if version <= 17 else None
base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p).value)
library.RegisterCustomOps.restype = ctypes.c_void_p
print(library.RegisterCustomOps(None, base), made)
"""
    command = [sys.executable, "-c", script, str(library)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "1 ['sparsecc needs ONNX Runtime 1.18 or newer']"
