"""How much every weight of a model moves its outputs: a whole-model sensitivity without labels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecc.errors import CalibrationError
from sparsecc.passes.weights.layers import find_layers
from sparsecc.progress import Progress, silent
from sparsecc.quality.calibration import Calibration, Feed, count_samples
from sparsecc.torch.interpreter import Interpreter
from sparsecc.torch.layers import as_matrix, weight_name


def fisher(
    model: ir.Model,
    calibration: Calibration,
    *,
    probes: int = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> dict[str, NDArray[np.float64]]:
    """Second derivatives of the squared distance to the model's own outputs, on the diagonal.

    With J the derivatives of the outputs y of a sample by a layer's weights, a change δ of these
    moves the outputs by ‖Jδ‖² to second order: the Gauss-Newton matrix JᵀJ, which for outputs
    with Gaussian noise is the Fisher information. Its diagonal is E[(Jᵀv)²] over random signs v
    (Hutchinson 1989; Bekas, Kokiopoulou and Saad 2007), one backward pass from v · y. The signs
    of the samples of a batch are independent, so that a batch needs a single pass as well:
    products of two samples' gradients are zero on average. Outputs are scaled to a mean square
    of one, so that each counts the same.

    Zeroing a weight w is then expected to cost w² · F, as in optimal brain damage (LeCun, Denker
    and Solla 1989) with the model itself as the label.

    Args:
        model: The dense model, in canonical form.
        calibration: Its training batches are read.
        probes: Draws of signs for every batch.
        seed: Of the signs.
        device: Where to compute.
        progress: Called before every batch.

    Returns:
        Layer name → F ``[R, K]``, the mean over samples, for every layer that can be pruned.

    Raises:
        UnsupportedOpError: The interpreter cannot run the model.
        CalibrationError: A gradient is not finite.
    """
    layers = find_layers(model).layers
    interpreter = Interpreter(model, device=device)
    parameters = [interpreter.parameter(weight_name(layer)) for layer in layers]
    sums = [torch.zeros_like(each, dtype=torch.float64) for each in parameters]
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    for number, feed in enumerate(calibration.train):
        progress("sensitivity of the outputs", number / len(calibration.train))
        samples += probes * count_samples(feed)
        for _ in range(probes):
            loss = _projection(interpreter, feed, generator)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.double().square()
    found = {}
    for layer, total in zip(layers, sums, strict=True):
        if not torch.isfinite(total).all():
            raise CalibrationError(
                "the outputs' gradient by the weight is not finite",
                node=layer.name,
                fix="check the model and the calibration data for NaN and infinity",
            )
        found[layer.name] = as_matrix(layer, total / samples).cpu().numpy()
    return found


def _projection(interpreter: Interpreter, feed: Feed, generator: torch.Generator) -> Tensor:
    """V · y of the floating-point outputs, each scaled to a mean square of one."""
    outputs = interpreter({name: torch.from_numpy(array) for name, array in feed.items()})
    total = torch.zeros((), device=interpreter.device)
    for y in outputs.values():
        if y.is_floating_point():
            signs = torch.randint(0, 2, y.shape, generator=generator).to(y.device, y.dtype) * 2 - 1
            size = y.detach().square().mean().sqrt().clamp(min=torch.finfo(y.dtype).tiny)
            total = total + (y * signs).sum() / size
    return total
