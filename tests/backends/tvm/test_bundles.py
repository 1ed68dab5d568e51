"""Generated code inside of bundles: the same model on this processor, on ARM and in WebAssembly."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import sparsecc
from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.errors import BackendError
from tests.backends.codegen.test_systems import exported, read
from tests.backends.mobile.test_ios import CALLS, LIBRARY, OF_THE_SYSTEM, symbols
from tests.backends.tvm import models
from tests.backends.tvm.test_library import CLOSE, SIZES, relative


@pytest.mark.parametrize("target", ["x86-64", "arm64-linux", "wasm"])
def test_layers_of_the_library_between_generated_code(target: str) -> None:
    made = sparsecc.compile(models.pooled(), target=target, backend="bundle", sparsity="existing")
    reference = ort.InferenceSession(models.pooled().SerializeToString())
    for batch, tokens in SIZES:
        feed = models.feed(batch, tokens)
        assert relative(made.session.run(None, feed)[0], reference.run(None, feed)[0]) < CLOSE


LIBRARIES = {
    "arm64-android": "src/main/jniLibs/arm64-v8a/libmodel.so",
    "arm64-macos": "libmodel.dylib",
    "x86-64-windows": "model.dll",
}
"""What is linked where nothing here runs it."""


def grown(target: str) -> sparsecc.Compiled:
    made = sparsecc.compile(models.grown(), target=target, backend="bundle")
    assert {each["node"] for each in made.manifest.plan["refusals"]} >= {"norm", "grow"}
    return made


@pytest.mark.parametrize(("target", "file"), LIBRARIES.items())
def test_a_library_with_generated_code_has_its_api_and_needs_nothing(
    target: str, file: str
) -> None:
    made = grown(target)
    library = read(made.path / file)
    calls = {f"model_{call}" for call in CALLS}
    assert exported(library) == calls | ({"JNI_OnLoad"} if "android" in target else set())
    needed = {str(each.name).removeprefix("_") for each in library.imported_functions}
    assert needed <= (OF_THE_SYSTEM | {"dyld_stub_binder"} if "macos" in target else set())


def test_an_archive_for_ios_with_generated_code_has_no_other_names() -> None:
    made = grown("arm64-ios")
    defined, used = symbols((made.path / LIBRARY).read_bytes())
    assert all(name.startswith("model_") for name in defined)
    assert used - defined <= OF_THE_SYSTEM


MAIN = """\
int model_inputs(void), model_run(void), model_create(void);
int main(void) { return model_create() + model_inputs() + model_run(); }
"""


@pytest.mark.parametrize(
    ("target", "archive", "triple"),
    [
        ("x86-64-windows", "model_static.lib", "x86_64-windows-gnu"),
        ("arm64-macos", "libmodel.a", "aarch64-macos.11.0"),
    ],
)
def test_a_program_links_with_generated_code(
    target: str, archive: str, triple: str, tmp_path: Path
) -> None:
    """Names of an archive have a prefix: what asks for them by another name fails here."""
    made = grown(target)
    (tmp_path / archive).write_bytes((made.path / archive).read_bytes())
    (tmp_path / "main.c").write_text(MAIN)
    run_zig(["cc", "-target", triple, "main.c", archive, "-o", "main"], tmp_path)


@pytest.mark.parametrize("target", ["x86-64", "arm64-linux", "wasm"])
def test_a_layer_beside_generated_code_of_fixed_sizes(target: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    want = ort.InferenceSession(models.grown().SerializeToString()).run(None, {"x": x})[0]
    made = grown(target)
    assert relative(made.session.run(None, {"x": x})[0], want) < CLOSE


def only_leftovers() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("ArgMax", ["t"], ["y"], "best", axis=-1, keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 4, 6])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 4, 6])
    graph = helper.make_graph(nodes, "leftovers", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("target", ["x86-64", "wasm"])
def test_a_model_that_is_nothing_else(target: str) -> None:
    made = sparsecc.compile(only_leftovers(), target=target, backend="bundle")
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(made.session.run(None, {"x": x})[0], x.argmax(1))


@pytest.mark.parametrize(
    ("op", "dtype", "dims"),
    [("NonZero", TensorProto.INT64, [3, None]), ("Det", TensorProto.FLOAT, ["n"])],
)
def test_what_tvm_cannot_take_is_named_and_nothing_else_said(
    capfd: pytest.CaptureFixture[str], op: str, dtype: int, dims: list[int | str | None]
) -> None:
    """TVM warns of what it began and did not end once it is collected."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 5])
    y = helper.make_tensor_value_info("y", dtype, dims)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], "which")], "one", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BackendError, match="which"):
        sparsecc.compile(model, target="x86-64", backend="bundle")
    gc.collect()
    assert capfd.readouterr().err == ""
