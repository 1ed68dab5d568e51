"""Compiled: called in every way it may be, saved and loaded again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import sparsecc
from sparsecc.errors import ArtifactError, BackendError, ModelError, TargetError
from sparsecc.targets import registry
from tests import small

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.ones((2, 3), np.float32)


@pytest.fixture(scope="module")
def two() -> sparsecc.Compiled:
    """Inputs a, b → outputs a − b, a · b."""
    nodes = [
        helper.make_node("Sub", ["a", "b"], ["less"], "less"),
        helper.make_node("Mul", ["a", "b"], ["product"], "product"),
    ]
    shapes = {"a": ["n", 3], "b": ["n", 3]}
    return sparsecc.compile(small.model(nodes, shapes, {"less": ["n", 3], "product": ["n", 3]}, {}))


@pytest.mark.parametrize(
    "call",
    [
        lambda two: two(A, B),
        lambda two: two(A, b=B),
        lambda two: two(b=B, a=A),
        lambda two: tuple(two.run({"b": B, "a": A}).values()),
    ],
)
def test_by_position_and_by_name(two, call) -> None:
    less, product = call(two)
    np.testing.assert_array_equal(less, A - B)
    np.testing.assert_array_equal(product, A * B)


def test_run_gives_names(two) -> None:
    assert list(two.run({"a": A, "b": B})) == ["less", "product"]


def test_one_output_comes_alone(pruned_mlp) -> None:
    assert pruned_mlp(small.tokens(0)).shape == (small.TOKENS, 10)


def test_tensors_in_tensors_out(two) -> None:
    torch = pytest.importorskip("torch")
    less, product = two(torch.from_numpy(A).requires_grad_(), b=B)
    assert torch.equal(less, torch.from_numpy(A - B))
    assert torch.equal(product, torch.from_numpy(A * B))
    strided = torch.from_numpy(np.ascontiguousarray(A.T)).T
    assert torch.equal(two(strided, B)[0], torch.from_numpy(A - B))


def test_arrays_that_are_not_contiguous(two) -> None:
    wide = np.zeros((2, 6), np.float32)
    wide[:, ::2] = A
    np.testing.assert_array_equal(two(wide[:, ::2], np.asfortranarray(B))[0], A - B)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((A,), {}, "wants ['a', 'b']"),
        ((A,), {"c": B}, "wants ['a', 'b']"),
        ((A, B, B), {}, "too many inputs"),
        ((A,), {"a": A}, "one given twice"),
        ((A, B), {"b": B}, "one given twice"),
        ((A[0], B), {}, "refused its inputs"),
        ((A[:, :2], B), {}, "refused its inputs"),
        ((A.astype(np.float64), B), {}, "refused its inputs"),
        ((A.astype(object), B), {}, "refused its inputs"),
        (([[1.0], [1.0, 2.0]], B), {}, "'a' cannot be made a numpy array"),
    ],
)
def test_wrong_inputs_are_one_clear_error(two, capfd, args, kwargs, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        two(*args, **kwargs)
    assert said in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_tensor_that_numpy_has_no_dtype_for(two) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ModelError, match="'b' cannot be made a numpy array"):
        two(A, torch.ones(2, 3, dtype=torch.bfloat16))


def test_saved_and_loaded_it_computes_the_same(pruned_mlp, saved_mlp) -> None:
    loaded = sparsecc.load(saved_mlp)
    x = small.tokens(7)
    np.testing.assert_array_equal(loaded(x), pruned_mlp(x))
    assert loaded.manifest == pruned_mlp.manifest
    assert loaded.plan == pruned_mlp.plan
    assert str(loaded.report) == str(pruned_mlp.report)
    assert (loaded.size_bytes, loaded.quality) == (pruned_mlp.size_bytes, pruned_mlp.quality)
    assert not loaded.portable


def test_it_is_loaded_by_a_process_of_its_own(pruned_mlp, saved_mlp, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", small.tokens(8))
    program = (
        "import sys, numpy as np, sparsecc\n"
        "model, x, y = sys.argv[1:]\n"
        "np.save(y, sparsecc.load(model)(np.load(x)))\n"
    )
    places = [str(saved_mlp), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", program, *places], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), pruned_mlp(small.tokens(8)))


def test_saving_again_replaces_and_saving_in_place_keeps(saved_mlp, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sparsecc.compile(small.mlp()).save(str(out))
    assert not list(out.glob("*.so"))
    loaded = sparsecc.load(saved_mlp)
    assert loaded.save(out) == out
    assert len(list(out.glob("*.so"))) == 1
    again = sparsecc.load(out)
    again.save(out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in saved_mlp.iterdir()
    }
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_may_be_moved(saved_mlp, pruned_mlp, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(saved_mlp, tmp_path / "moved here")
    monkeypatch.chdir(tmp_path)
    x = small.tokens(9)
    np.testing.assert_array_equal(sparsecc.load("moved here")(x), pruned_mlp(x))


def test_an_older_processor_is_told(saved_mlp, monkeypatch) -> None:
    flags = frozenset({"avx2", "fma", "bmi2", "f16c"})
    monkeypatch.setattr(registry, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(registry.platform, "machine", lambda: "x86_64")
    shown = json.loads((saved_mlp / "manifest.json").read_text())["target"]
    if shown != "x86-64-v4":
        pytest.skip("this machine has no AVX-512: the artifact is for x86-64-v3")
    with pytest.raises(TargetError, match="compiled for x86-64-v4"):
        sparsecc.load(saved_mlp)


def test_no_artifact(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match="is not a sparsecc artifact"):
            sparsecc.load(place)


def test_a_library_that_is_none_is_told_at_the_first_call(saved_mlp, tmp_path: Path) -> None:
    from sparsecc.compiled import Compiled

    loaded = sparsecc.load(saved_mlp)
    copy = shutil.copytree(saved_mlp, tmp_path / "copy")
    library = copy / str(loaded.manifest.library)
    library.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(BackendError, match=library.name) as caught:
        Compiled(copy, loaded.manifest)(small.tokens(0))
    assert "target='native'" in str(caught.value)
