"""A small model pruned badly, which recovery has something to do about."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.patterns import Pattern
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers, matrix
from sparsecc.passes.weights.prune import prune_model
from sparsecc.quality.calibration import Calibration, load_calibration
from sparsecc.search.plan import Choice
from tests import small


def canonical(proto) -> ir.Model:
    """A model as passes see it."""
    model = ir.from_proto(proto)
    run(pipeline.EXACT_BEFORE, model, Context())
    return model


def inputs(count: int, seed: int = 1) -> NDArray[np.float32]:
    """Inputs of the MLP that share a few directions, so that there is something to learn."""
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((24, small.WIDTH))
    noise = np.random.default_rng(seed).standard_normal((count, 24))
    return (noise @ mixing / 5).astype(np.float32)


def lesson(count: int = 320) -> tuple[ir.Model, ir.Model, Calibration]:
    """The dense MLP, the same with 4x1 blocks of zeros by magnitude, and data."""
    dense = canonical(small.mlp("n"))
    pruned = dense.clone()
    choice = Choice(pattern=Pattern.parse("4x1"), sparsity=0.6, method="magnitude", refit=False)
    names = [layer.name for layer in find_layers(pruned).layers if not layer.keep_dense]
    prune_model(pruned, dict.fromkeys(names, choice))
    return dense, pruned, load_calibration({"x": inputs(count)}, dense)


def weights(model: ir.Model) -> dict[str, NDArray[np.floating]]:
    """Layer name → its matrix."""
    return {layer.name: matrix(layer) for layer in find_layers(model).layers}
