"""The table of a GPU that nothing was measured on: what comes with sparsecc."""

from __future__ import annotations

from collections.abc import Mapping

from sparsecc.cost.gpu.coefficients import LAUNCH_MS, SPREAD, Coefficients, assumed
from sparsecc.cost.rates import KINDS, Kind, Rate
from sparsecc.cost.table import Table, kernels_hash
from sparsecc.targets import Target
from sparsecc.targets.cuda import arch_of_target

_BYTES: Mapping[Kind, int] = {
    "pool": 4,
    "mean": 2,
    "scale": 4,
    "add": 6,
    "activation": 4,
    "layer_norm": 4,
    "softmax": 4,
}
"""Of numbers of 16 bits that a step reads and writes for each element it is counted by: all is
taken to come from memory. Other kinds have no step of their own on a GPU."""


def assumed_table(target: Target) -> Table:
    """A table of a GPU by its data sheet: estimates until its own figures are known.

    Raises:
        TargetError: There are no kernels for its architecture.
    """
    known = assumed(arch_of_target(target))
    return Table(
        target=target,
        kernels=kernels_hash(target),
        machine="",
        derived=True,
        peak_gflops=target.peak_gflops,
        bandwidths=target.bandwidths,
        rates={kind: _rate(kind, target, known) for kind in KINDS},
        gpu=known,
    )


def _rate(kind: Kind, target: Target, known: Coefficients) -> Rate:
    if kind == "attention":  # of a step that computes all scores
        share = known.reached["attention-library"].matrix
        per_mac = 2e-3 / (target.tensor_tflops * share)
        return Rate(call_ms=LAUNCH_MS, element_ns=0.0, mac_ns=_four(per_mac), spread=SPREAD)
    per_element = _BYTES.get(kind, 0) / target.dram_gbs  # GB/s are bytes a ns
    call = LAUNCH_MS if kind in _BYTES else 0.0
    return Rate(call_ms=call, element_ns=_four(per_element), spread=SPREAD)


def _four(number: float) -> float:
    """To four digits, as measured rates are kept."""
    return float(f"{number:.4g}")
