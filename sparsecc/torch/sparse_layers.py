"""Linear layers of a pruned module that a GPU runs faster sparse, replaced where that pays."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsecc import targets
from sparsecc.backends.cuda.forms.base import Packed
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import DTYPES, Arch
from sparsecc.backends.cuda.launch import arch_of
from sparsecc.backends.cuda.recipe import dtype_of
from sparsecc.cost.gpu.weights import PRICED, task_of_packed
from sparsecc.cost.model import CostModel, cost_model
from sparsecc.cost.roofline import Work
from sparsecc.errors import BackendError, TargetError
from sparsecc.targets.cuda import arch_of_target
from sparsecc.torch.sparse_linear import SparseLinear

FEWEST_ZEROS = 0.3
"""Share of a weight below which no form is tried."""
WORTHWHILE = 0.9
"""A form must be estimated at or below this share of the dense time: estimates are a tenth off."""


@dataclass(frozen=True)
class LayerChoice:
    """What became of a linear layer.

    Attributes:
        name: Of the layer in its module.
        zeros: Share of its weight.
        form: What it is kept in now; "" if it stays as it was.
        ms: Estimated time in the best form; the dense one where none fits.
        dense_ms: Estimated time of the dense layer.
        why: Why it stays, or "".
    """

    name: str
    zeros: float
    form: str
    ms: float
    dense_ms: float
    why: str = ""

    def __str__(self) -> str:
        what = f"{self.name}: {self.zeros:.0%} zeros, "
        if self.form:
            return f"{what}{self.form}, {self.dense_ms / self.ms:.2f} times as fast (estimated)"
        return f"{what}dense: {self.why}"


def sparse_layers(
    module: nn.Module, tokens: int, *, arch: Arch | None = None, forms: Sequence[str] = ()
) -> list[LayerChoice]:
    """Replace linear layers whose zeros are worth skipping by :class:`SparseLinear`.

    The form of each is the one that the cost model expects to be the quickest; a layer for which
    none is quicker than cuBLAS stays dense, and the answer says why. Values stay as they are, so
    that only the order of sums differs.

    Args:
        module: Pruned already, in float16 or bfloat16; changed in place.
        tokens: Of one run, all of the batch.
        arch: Of the GPU, as ``sm_90``; by default of the one that is here.
        forms: Those that may be taken; by default all that keep values as they are.

    Returns:
        Every linear layer of the module, in its order.

    Raises:
        TargetError: There is no GPU here and no architecture given, or no kernels for it.
        BackendError: There is no such form.
    """
    target = targets.get(f"cuda-{arch or _arch_here()}")
    allowed = tuple(forms) or tuple({each.form: None for each in PRICED})
    for name in allowed:
        if name not in FORMS:
            raise BackendError(f"no form {name!r} of weights", fix=f"use {', '.join(FORMS)}")
    made = []
    for owner, attribute, name in list(_linears(module)):
        layer = getattr(owner, attribute)
        choice, packed = _choose(layer, name, tokens, cost_model(target), allowed)
        made.append(choice)
        if packed is not None:
            sparse = SparseLinear.of_packed(packed, layer.weight.dtype, layer.bias)
            setattr(owner, attribute, sparse.to(layer.weight.device))
    return made


def _arch_here() -> Arch:
    if not torch.cuda.is_available():
        raise TargetError(
            "there is no GPU here to choose for", fix='name its architecture: arch="sm_90"'
        )
    return arch_of("cuda")


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Owner, attribute and full name of every linear layer inside of a module."""
    for prefix, owner in module.named_modules():
        for attribute, child in owner.named_children():
            if isinstance(child, nn.Linear):
                yield owner, attribute, f"{prefix}.{attribute}".lstrip(".")


def _choose(
    layer: nn.Linear, name: str, tokens: int, costs: CostModel, forms: Sequence[str]
) -> tuple[LayerChoice, Packed | None]:
    """What becomes of a layer, and its weight in the form that it is kept in."""
    weight = layer.weight.detach()
    zeros = float((weight == 0).float().mean())
    rows, columns = weight.shape
    dense = costs.library(Work(rows, columns, tokens, 1, columns * tokens, is_conv=False)).ms
    stays = functools.partial(LayerChoice, name, zeros, "")
    dtype = dtype_of(weight)
    if dtype not in DTYPES:
        why = f"weights are {dtype}: use {' or '.join(DTYPES)}"
        return stays(dense, dense, why), None
    if zeros < FEWEST_ZEROS:
        return stays(dense, dense, "too few zeros"), None
    matrix = weight.double().cpu().numpy()
    found = []
    for form in forms:
        try:
            packed = FORMS[form].pack(matrix, dtype)
        except BackendError:  # it does not fit the form, others may
            continue
        task = task_of_packed(packed, tokens, dtype, arch_of_target(costs.target))
        found.append((costs.task(task).ms, packed))
    if not found:
        return stays(dense, dense, "its zeros fit no form"), None
    ms, best = min(found, key=lambda each: each[0])
    if ms > WORTHWHILE * dense:
        why = f"{best.form} would take {ms / dense:.2f} of the dense time (estimated)"
        return stays(ms, dense, why), None
    return LayerChoice(name, zeros, best.form, ms, dense), best
