"""Every artifact is within 1e-5 of what its model computes in double precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import sparsecc
from sparsecc.capture import capture
from sparsecc.engines import open_engine, open_variants, why_not_here
from sparsecc.manifest import MODEL_NAME
from sparsecc.measure import max_rel_error, run_once
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.targets import TARGETS
from tests import exact
from tests.end_to_end import zoo

TOLERANCE = 1e-5
SHARES = {"mobilenet_v1": 0.8, "resnet50": 0.8, "minilm": 0.8, "ocr_direction": 0.8}
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "onnxruntime": ("native", {}),
    "bundle": ("native", {"backend": "bundle"}),
    "tvm": ("native", {"backend": "tvm"}),
    "wasm": ("wasm", {}),
    "arm": ("arm64-linux", {"backend": "bundle"}),
}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name → a model that has its zeros, in standard ops, and inputs."""
    made: dict[str, tuple[Path, zoo.Feeds]] = {}

    def get(name: str) -> tuple[Path, zoo.Feeds]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            case, options = zoo.ZOO[name](folder), dict[str, Any]()
            if not isinstance(case.model, Path):
                import torch

                options["example_inputs"] = tuple(map(torch.from_numpy, case.feeds.values()))
            share = f"4x1:{SHARES[name]}"
            compiled = sparsecc.compile(case.model, "native", sparsity=share, **options)
            path = folder / "pruned.onnx"
            twin = twin_of(ir.load(compiled.path / MODEL_NAME))
            ir.save(twin, path, external_data=f"{path.name}.data")
            made[name] = path, case.feeds
        return made[name]

    return get


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SHARES)
def test_an_artifact_is_near_its_model_in_double_precision(
    name: str, engine: str, pruned: Any
) -> None:
    pytest.importorskip("torch")
    target, options = ENGINES[engine]
    if why := zoo.missing_package(name) or (target in TARGETS and why_not_here(TARGETS[target])):
        pytest.skip(f"{why} is missing" if zoo.missing_package(name) else why)
    needs_tvm = engine == "tvm" or (name == "minilm" and engine != "onnxruntime")
    if needs_tvm and importlib.util.find_spec("tvm") is None:
        pytest.skip("apache-tvm is not installed")
    path, feeds = pruned(name)
    made = sparsecc.compile(path, target, sparsity="existing", **options)
    wanted = exact.outputs(capture(path), feeds)
    manifest = made.manifest
    sessions = (
        {"": open_engine(made.path, manifest)}
        if manifest.has_model
        else open_variants(made.path, manifest)
    )
    for session in sessions.values():
        assert max_rel_error(run_once(session, feeds), wanted) <= TOLERANCE
