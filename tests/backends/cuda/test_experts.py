"""Mixtures of experts through the interpreter, beside float64; what is written holds NaN before."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.experts import Mixture, most_tiles, recipe, rows_of
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.kernel import DTYPES
from sparsecc.backends.cuda.recipe import run
from sparsecc.backends.cuda.rows.experts import BINS, ROWS, route_name
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError, TargetError
from sparsecc.ops import moe
from sparsecc.ops.activations import ACTIVATIONS

pytest.importorskip("triton")

STEPS = {"float16": 2.0**-11, "bfloat16": 2.0**-7}
"""Rounding of a number, relative; the interpreter cuts bfloat16 instead."""
PLAIN = Mixture(
    tokens=20,
    slots=2,
    experts=5,
    features=80,
    inner=144,
    activation="silu",
    gated=True,
    biased=False,
    dtype="float16",
    arch="sm_90",
)
NAMES = {
    "up": "Up",
    "gate": "Gate",
    "down": "Down",
    "up_bias": "UpBias",
    "gate_bias": "GateBias",
    "down_bias": "DownBias",
}
CHOICES = ("any", "one", "few")


def chosen(mixture, choice, seed):
    """Experts of every token: any, all the same, or those of an eighth of the experts."""
    draws = np.random.default_rng(seed)
    most = {"any": mixture.experts, "one": 1, "few": -(-mixture.experts // 8)}[choice]
    first = draws.integers(mixture.experts - most + 1)
    return torch.from_numpy(first + draws.integers(0, most, (mixture.tokens, mixture.slots)))


def tensors_of(mixture, choice="any", seed=0):
    torch.manual_seed(seed)
    e, d, f = mixture.experts, mixture.features, mixture.inner
    shapes = {"X": (mixture.tokens, d), "Up": (e, f, d), "Down": (e, d, f)}
    if mixture.gated:
        shapes["Gate"] = (e, f, d)
    if mixture.biased:
        shapes |= {f"{name}Bias": shape[:2] for name, shape in shapes.items() if name != "X"}
    made = {
        name: torch.randn(shape) / (1 if name == "X" else math.sqrt(shape[-1]))
        for name, shape in shapes.items()
    }
    made = {name: tensor.to(getattr(torch, mixture.dtype)) for name, tensor in made.items()}
    gates = torch.rand(mixture.tokens, mixture.slots) - 0.2
    return made | {"Experts": chosen(mixture, choice, seed), "Gates": gates}


def computed(mixture, tensors, rows=None):
    out = torch.full_like(tensors["X"], math.nan)
    run(
        recipe(mixture, rows),
        tensors | {"Out": out},
        lambda kernel, grid, given: interpret(kernel, mixture.arch, grid, given),
        lambda shape, dtype, device: torch.full(
            shape, math.nan if dtype.is_floating_point else 2**30, dtype=dtype, device=device
        ),
    )
    return out.double().numpy()


def wanted(mixture, tensors):
    """The result in float64, and how large what is rounded on the way is, in the result."""
    ours = {name: tensor.double().numpy() for name, tensor in tensors.items() if name != "Experts"}
    weights = {name: ours[given] for name, given in NAMES.items() if given in ours}
    x, gates, experts = ours["X"], ours["Gates"], tensors["Experts"].numpy()
    result = moe.mixture(mixture.activation, x, experts, gates, weights)
    size = np.zeros_like(x)
    for token, row in enumerate(experts):
        for slot, e in enumerate(row):
            part = {name: weight[e] for name, weight in weights.items()}
            hidden = np.abs(moe.hidden(mixture.activation, x[token], part))
            size[token] += abs(gates[token, slot]) * (np.abs(part["down"]) @ hidden)
    return result, size


def check(mixture, choice="any", seed=0, rows=None):
    tensors = tensors_of(mixture, choice, seed)
    result, size = wanted(mixture, tensors)
    bound = STEPS[mixture.dtype] * (np.abs(result) + size) + 1e-4 * (1 + size)
    assert (np.abs(computed(mixture, tensors, rows) - result) <= bound).all()


@st.composite
def mixtures(draw):
    experts = draw(st.integers(1, 12))
    return Mixture(
        tokens=draw(st.integers(1, 70)),
        slots=draw(st.integers(1, 4)),
        experts=experts,
        features=16 * draw(st.integers(1, 18)),
        inner=16 * draw(st.integers(1, 18)),
        activation=draw(st.sampled_from([activation.name for activation in ACTIVATIONS])),
        gated=draw(st.booleans()),
        biased=draw(st.booleans()),
        dtype=draw(st.sampled_from(list(DTYPES))),
        arch=draw(st.sampled_from(["sm_80", "sm_90"])),
    )


@given(mixtures(), st.sampled_from(CHOICES), st.integers(0, 99), st.sampled_from(ROWS))
def test_is_the_mixture_of_float64(mixture, choice, seed, rows):
    check(mixture, choice, seed, rows)


@pytest.mark.parametrize("activation", [activation.name for activation in ACTIVATIONS])
def test_activations(activation):
    check(dataclasses.replace(PLAIN, activation=activation, tokens=3, gated=False, biased=True))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("tokens", [9, 80, 300])
def test_tiles_of_every_size(tokens, choice):
    """Many tokens, so that experts have whole tiles and ends of some; long, so that parts sum."""
    mixture = dataclasses.replace(PLAIN, tokens=tokens, experts=3, inner=528, biased=True)
    assert rows_of(mixture.pairs, mixture.experts) == {9: 16, 80: 64, 300: 128}[tokens]
    check(mixture, choice)


def test_hidden_features_are_cut_where_programs_are_few():
    mixture = dataclasses.replace(PLAIN, tokens=1, slots=1, inner=2064)
    assert recipe(mixture).scratch["Parts"][1][0] > 1
    check(mixture)


def test_the_same_bits_every_time():
    tensors = tensors_of(PLAIN, "few")
    assert np.array_equal(computed(PLAIN, tensors), computed(PLAIN, tensors))


@given(
    st.integers(1, 1500),
    st.integers(1, 3),
    st.integers(1, 64),
    st.sampled_from(ROWS),
    st.sampled_from(BINS),
    st.sampled_from(CHOICES),
    st.integers(0, 99),
)
def test_pairs_are_sorted_into_tiles(tokens, slots, experts, rows, bins, choice, seed):
    """Stable, and experts that do not exist get no place."""
    shape = dataclasses.replace(PLAIN, tokens=tokens, slots=slots, experts=experts)
    which = chosen(shape, choice, seed)
    bad = torch.from_numpy(np.random.default_rng(seed).random(which.shape) < 0.02)
    which = torch.where(bad, torch.tensor([-1, experts, 2**40])[seed % 3], which)
    most = most_tiles(shape.pairs, experts, rows)
    written = {
        "Order": torch.full((shape.pairs,), -7, dtype=torch.int32),
        "Tiles": torch.full((most, 3), -7, dtype=torch.int32),
        "Count": torch.full((1,), -7, dtype=torch.int32),
    }
    numbers = {"pairs": shape.pairs, "experts": experts, "rows": rows}
    interpret(
        KERNELS[route_name(bins)],
        "sm_90",
        (experts,),
        {"Experts": which, **written, **numbers},
    )
    flat = which.flatten().numpy()
    real = np.flatnonzero((flat >= 0) & (flat < experts))
    order = real[np.argsort(flat[real], kind="stable")]
    assert np.array_equal(written["Order"][: len(order)], order)
    tiles, end = [], 0
    for expert in range(experts):
        start, end = end, end + int((flat == expert).sum())
        tiles += [(expert, first, end) for first in range(start, end, rows)]
    count = int(written["Count"])
    assert count == len(tiles) <= most
    assert [tuple(tile) for tile in written["Tiles"][:count].tolist()] == tiles


@pytest.mark.parametrize(("expert", "gate"), [(-1, 1.0), (PLAIN.experts, 1.0), (0, math.nan)])
def test_a_token_without_an_answer_is_nan_and_others_are_not(expert, gate):
    tensors = tensors_of(PLAIN)
    usual = computed(PLAIN, tensors)
    tensors["Experts"][3, 1], tensors["Gates"][3, 1] = expert, gate
    made = computed(PLAIN, tensors)
    assert np.isnan(made[3]).all()
    assert np.array_equal(np.delete(made, 3, 0), np.delete(usual, 3, 0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": 24}, "24 → 144 float16 features"),
        ({"dtype": "float32"}, "float32 features"),
        ({"slots": 0}, "is empty"),
        ({"experts": 1025}, "at most 1024 experts"),
        ({"features": 2**16, "inner": 2**16}, "too large"),
        ({"activation": "swish"}, "use none, relu"),
    ],
)
def test_what_no_kernel_takes(change, said):
    with pytest.raises(BackendError, match=said):
        recipe(dataclasses.replace(PLAIN, **change))


def test_an_architecture_without_kernels():
    with pytest.raises(TargetError, match="sm_75"):
        recipe(dataclasses.replace(PLAIN, arch="sm_75"))


def test_no_tokens_start_nothing():
    assert recipe(dataclasses.replace(PLAIN, tokens=0)).steps == ()
