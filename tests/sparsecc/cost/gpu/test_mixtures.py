"""Times of mixtures of experts on GPUs: sums by hand, bounds, and what all experts would take."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.experts import Mixture
from sparsecc.cost.gpu.bounds import ms_of
from sparsecc.cost.gpu.coefficients import assumed
from sparsecc.cost.gpu.mixtures import mixture
from sparsecc.cost.model import cost_model
from sparsecc.cost.moe import Routing, every_expert, mixture_ms
from sparsecc.errors import BackendError
from sparsecc.targets import TARGETS

MIXTRAL = Mixture(4096, 2, 8, 4096, 14336, "silu", True, False, "bfloat16", "sm_90")
ARCHS = ("sm_80", "sm_90")


def loads_of(what: Mixture) -> list[tuple[float, float]]:
    return Routing(what.tokens, what.slots, what.experts).loads


def ms(what: Mixture) -> float:
    target = TARGETS[f"cuda-{what.arch}"]
    return ms_of(mixture(what, loads_of(what)), target, assumed(what.arch))


def test_arithmetic_is_that_of_whole_tiles() -> None:
    task = mixture(MIXTRAL, [(1.0, 1000.0)] * 8)
    macs = 8 * 1024 * 4096 * 14336  # 1000 pairs take eight tiles of 128
    _, up, down, _ = (launched.demand for launched in task.launches)
    assert (up.flops, down.flops) == (4 * macs, 2 * macs)
    assert up.programs == 8 * 8 * 14336 // 128
    assert down.programs == 8 * 8 * 4096 // 256


def test_few_tokens_read_the_experts_that_are_touched() -> None:
    few = dataclasses.replace(MIXTRAL, tokens=4)
    weight = 2 * 4096 * 14336
    _, up, down, _ = (launched.demand for launched in mixture(few, [(0.5, 2.0)] * 8).launches)
    assert up.read == pytest.approx(4 * 2 * weight, rel=1e-2)
    assert down.read == pytest.approx(4 * weight, rel=1e-2)


@given(
    st.sampled_from(ARCHS),
    st.integers(1, 5000),
    st.integers(1, 4),
    st.integers(4, 200),
    st.integers(1, 200),
    st.integers(1, 400),
    st.booleans(),
)
def test_nothing_is_above_the_peak_or_the_bandwidth(
    arch: str, tokens: int, slots: int, experts: int, features: int, inner: int, gated: bool
) -> None:
    sizes = (tokens, slots, experts, 16 * features, 16 * inner)
    what = Mixture(*sizes, "gelu", gated, False, "float16", arch)
    target, weight = TARGETS[f"cuda-{arch}"], 256 * features * inner * (2 + gated)
    distinct = Routing(tokens, slots, experts).distinct
    assert ms(what) >= 2e-9 * what.pairs * weight / target.tensor_tflops
    assert ms(what) >= 2 * distinct * weight / target.dram_gbs * 1e-6


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("tokens", [16, 512, 4096])
def test_experts_that_are_not_chosen_take_no_time(arch: str, tokens: int) -> None:
    what = dataclasses.replace(MIXTRAL, arch=arch, tokens=tokens, experts=64, slots=4)
    costs, routing = cost_model(TARGETS[f"cuda-{arch}"]), Routing(tokens, 4, 64)
    shapes = [(what.inner, what.features)] * 2 + [(what.features, what.inner)]
    every = sum(costs.dense(work).ms for work in every_expert(routing, shapes))
    assert ms(what) < every
    if tokens == 4096:
        assert ms(what) < every / 6


def test_none_without_a_kernel_and_nothing_without_tokens() -> None:
    with pytest.raises(BackendError, match="float32"):
        ms(dataclasses.replace(MIXTRAL, dtype="float32"))
    assert mixture(dataclasses.replace(MIXTRAL, tokens=0), []).launches == ()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_packed_mixture_takes_what_its_launches_do(arch: str) -> None:
    target = TARGETS[f"cuda-{arch}"]
    routing = Routing(4096, 2, 8)
    up, down = (14336, 4096, (16, 1), 0), (4096, 14336, (16, 1), 0)
    what = dataclasses.replace(MIXTRAL, arch=arch, dtype="float16")
    found = mixture_ms(routing, [up, up, down], target)
    assert found.ms == pytest.approx(ms(what), rel=1e-3)
    assert found.ms < 0.5 * every_ms(target, routing, [up, up, down])
    odd = [(14, 10, (1, 1), 0), (10, 14, (1, 1), 0)]  # no kernel takes so many features
    assert mixture_ms(routing, odd, target).ms == pytest.approx(every_ms(target, routing, odd))


def every_ms(target, routing, weights) -> float:
    shapes = [(rows, columns) for rows, columns, *_ in weights]
    return sum(cost_model(target).dense(work).ms for work in every_expert(routing, shapes))
