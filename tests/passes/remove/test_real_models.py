"""Real models without channels or heads answer as with the weights that read these at zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc.formats.patterns import Whole
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.permute.couplings import find_couplings
from sparsecc.passes.remove.cut import Reach
from sparsecc.passes.remove.find import find_removable
from sparsecc.passes.remove.remove import remove_share
from sparsecc.passes.weights.layers import find_layers, matrix, set_matrix
from tests.end_to_end import zoo
from tests.passes.permute.test_real_models import TOLERANCE, answers, captured

SETS: dict[tuple[str, Whole], int] = {
    ("mobilenet_v2", "channels"): 25,
    ("efficientnet_lite0", "channels"): 24,
    ("resnet18", "channels"): 12,
    ("vit", "channels"): 12,
    ("vit", "heads"): 12,
    ("ocr_recognizer", "channels"): 23,
    ("ocr_detector", "channels"): 35,
    ("minilm", "channels"): 6,
    ("minilm", "heads"): 6,
}
"""Model and kind → how many sets are made smaller."""


@pytest.mark.parametrize(("name", "kind"), SETS)
def test_a_real_model_answers_as_with_zeros(name: str, kind: Whole, tmp_path: Path) -> None:
    if package := zoo.missing_package(name):
        pytest.skip(f"{package} is not installed")
    case = zoo.ZOO[name](tmp_path)
    model = captured(case.model, tuple(case.feeds.values()))
    run(pipeline.EXACT_BEFORE, model, Context())
    zeroed = model.clone()
    found = remove_share(model, kind, 0.34, None, Context())
    gone = {each.name: each.gone for each in found.sets}
    couplings = find_couplings(zeroed)
    for each in find_removable(zeroed, couplings, Reach(couplings), kind, Context()):
        for side in each.readers:
            dropped = np.isin(side.units, gone.get(each.name, ()))
            set_matrix(side.layer, np.where(dropped, 0, matrix(side.layer)))
    for one, other in zip(answers(model, case.feeds), answers(zeroed, case.feeds), strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * scale)
    assert _size(model) < _size(zeroed)
    assert len(found.sets) == SETS[name, kind]


def _size(model: ir.Model) -> int:
    return sum(layer.rows * layer.cols for layer in find_layers(model).layers)
