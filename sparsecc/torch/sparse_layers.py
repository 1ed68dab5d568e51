"""Linear layers of a pruned module that a GPU runs faster sparse, replaced where that pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from sparsecc import targets
from sparsecc.backends.cuda.forms.base import Packed, Product
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import DTYPES, Arch
from sparsecc.backends.cuda.launch import arch_of
from sparsecc.cost.gpu.coefficients import Family
from sparsecc.cost.gpu.weights import Weight, is_known, task_of
from sparsecc.cost.model import CostModel, cost_model
from sparsecc.cost.roofline import Work
from sparsecc.errors import BackendError, TargetError
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
    allowed = tuple(forms) or tuple(
        name for name, form in FORMS.items() if form.exact and is_known(name)
    )
    for name in allowed:
        if name not in FORMS:
            raise BackendError(f"no form {name!r} of weights", fix=f"use {', '.join(FORMS)}")
    made = []
    for owner, attribute, name in list(_linears(module)):
        layer = getattr(owner, attribute)
        choice = _choose(layer, name, tokens, cost_model(target), allowed)
        made.append(choice)
        if choice.form:
            setattr(owner, attribute, SparseLinear.of(layer, choice.form))
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
) -> LayerChoice:
    weight = layer.weight.detach()
    zeros = float((weight == 0).float().mean())
    rows, columns = weight.shape
    work = Work(rows, columns, tokens, 1, columns * tokens, is_conv=False)
    dense = costs.library(work).ms
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        why = f"weights are {dtype}: use {' or '.join(DTYPES)}"
        return LayerChoice(name, zeros, "", dense, dense, why)
    if zeros < FEWEST_ZEROS:
        return LayerChoice(name, zeros, "", dense, dense, "too few zeros")
    matrix = weight.double().cpu().numpy()
    times = {}
    for form in forms:
        try:
            packed = FORMS[form].pack(matrix, dtype)
        except BackendError:  # it does not fit the form, others may
            continue
        times[form] = _ms(packed, tokens, dtype, costs)
    if not times:
        return LayerChoice(name, zeros, "", dense, dense, "its zeros fit no form")
    best = min(times, key=lambda form: times[form])
    if times[best] > WORTHWHILE * dense:
        why = f"{best} would take {times[best] / dense:.2f} of the dense time (estimated)"
        return LayerChoice(name, zeros, "", times[best], dense, why)
    return LayerChoice(name, zeros, best, times[best], dense)


def _ms(packed: Packed, tokens: int, dtype: str, costs: CostModel) -> float:
    arch = costs.target.name.removeprefix("cuda-")
    product = Product(packed.rows, packed.columns, packed.sizes, tokens, dtype, arch)
    weight = Weight(packed.sizes, packed.nbytes)
    return float(costs.task(task_of(cast(Family, packed.form), product, weight)).ms)
