"""Sessions: with and without the library, and what is said when it does not load."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecc import targets
from sparsecc.backends.onnxruntime import run
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import (
    PortableFallbackWarning,
    check_runs_here,
    open_session,
    session_of_model,
    session_options,
)
from sparsecc.capture import capture
from sparsecc.errors import BackendError, TargetError
from sparsecc.manifest import FORMAT, Manifest
from tests import small

FOREIGN = "arm64-linux"


def made_for(target: str, hardware: dict[str, Any] | None = None) -> Manifest:
    """The manifest of an artifact for a target."""
    return Manifest(
        format=FORMAT,
        sparsecc="0",
        tools={},
        target=target,
        hardware=hardware or {},
        library="lib.so",
        opset=17,
        files={},
        plan={},
        layers=[],
        refusals=[],
        numerics={},
        quality={},
    )


def mlp(session) -> np.ndarray:
    return np.asarray(session.run(None, {"x": small.tokens(0)})[0])


def test_from_a_file_from_bytes_and_from_memory(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(small.mlp().SerializeToString())
    model = capture(small.mlp())
    sessions = [
        open_session(tmp_path / "m.onnx"),
        open_session(small.mlp().SerializeToString(), threads=1),
        session_of_model(model),
    ]
    first, *others = map(mlp, sessions)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(mlp(session_of_model(model)), mlp(sessions[-1]))


def test_options() -> None:
    options = session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert session_options().intra_op_num_threads == 0


def test_a_model_onnx_runtime_refuses_is_told_once(capfd) -> None:
    proto = small.mlp()
    proto.graph.node[0].op_type = "Conv"
    for content in (proto.SerializeToString(), b"not a model"):
        with pytest.raises(BackendError, match="cannot load the model") as caught:
            open_session(content)
        assert caught.value.fix
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [None, b"", b"no library", b"\x7fELF" + bytes(60)])
def test_a_library_that_does_not_load(tmp_path: Path, content: bytes | None) -> None:
    library = tmp_path / "lib.so"
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(BackendError, match=r"lib.so does not load") as caught:
        open_session(small.mlp().SerializeToString(), library=library)
    assert "target='native'" in str(caught.value)


def test_a_library_of_another_processor() -> None:
    target = targets.get(FOREIGN)
    if targets.runs_here(target):
        pytest.skip(f"this machine is {FOREIGN}")
    with pytest.raises(BackendError, match="does not load"):
        open_session(small.mlp().SerializeToString(), library=build_library(target))
    with pytest.raises(TargetError, match=f"compiled for {FOREIGN}") as caught:
        check_runs_here(made_for(FOREIGN))
    assert "stock onnxruntime" in str(caught.value)


def test_native_runs_here() -> None:
    check_runs_here(made_for("native"))
    with pytest.raises(TargetError, match="unknown target"):
        check_runs_here(made_for("abacus"))


def test_an_artifact_says_all_of_its_target() -> None:
    native = targets.get("native")
    own = json.loads(dataclasses.replace(native, name="my-machine", ghz=1.0).to_json())
    check_runs_here(made_for("my-machine", own))
    with pytest.raises(TargetError, match="the artifact's target: field 'ghz'"):
        check_runs_here(made_for("my-machine", own | {"ghz": "fast"}))


def test_an_artifact_names_no_file(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(targets.get("native").to_json())
    with pytest.raises(TargetError, match="unknown target"):
        check_runs_here(made_for(str(path)))


def test_a_processor_without_avx2_falls_back_with_a_warning(monkeypatch) -> None:
    """What the library answers on such a processor, as its message reads."""

    class Options:
        def register_custom_ops_library(self, _: str) -> None:
            raise RuntimeError("[FAIL] sparsecc: this processor lacks x86-64-v3 (AVX2, FMA)")

    with pytest.warns(PortableFallbackWarning, match="running dense"):
        run._register(Options(), Path("lib.so"))


def test_the_library_is_used_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_session(small.mlp().SerializeToString(), library=build_library(targets.get("native")))
