"""What `sparsecc compile` says to do next with an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsecc import targets
from sparsecc.cli.compile import _next
from sparsecc.manifest import Manifest


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("native", "sparsecc bench out --baseline m.onnx"),
        ("wasm", "node out/demo/serve.mjs"),
        ("arm64-android", "sparsecc package out -o out.zip"),
    ],
)
def test_the_next_step_is_one_that_works_for_the_target(target, wanted):
    made = Manifest.model_construct(target=targets.get(target).name, hardware={})
    assert _next(made, Path("m.onnx"), Path("out")).startswith(wanted)
