"""Fits of structured weights against brute force, known optima and known transforms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured import kronecker, low_rank, monarch, toeplitz
from sparsecc.passes.structured.base import EXACT, Matrix, residual
from sparsecc.passes.structured.forms import FORMS
from tests.passes.structured import weights

NAMES = list(weights.structured())
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def shaped(draw: st.DrawFn) -> tuple[Structure, Matrix]:
    """A structure and a weight without one, that it fits."""
    form = draw(st.sampled_from(list(FORMS)))
    a, b, c, d = (draw(st.integers(1, 5)) for _ in range(4))
    rows, cols = a * b, c * d
    if form == "circulant":
        rows = cols
        b = c
    if form == "dft":
        rows *= 2
    sizes = {
        "rank": (draw(st.integers(1, min(rows, cols))),),
        "kronecker": (a, c, draw(st.integers(1, min(a * c, b * d)))),
        "toeplitz": (int(np.gcd(rows, cols)),),
        "circulant": (c,),
        "hankel": (int(np.gcd(rows, cols)),),
        "dft": (c, draw(st.integers(1, a * b))),
        "dct": (c, draw(st.integers(1, a * b))),
    }
    strided = form == "monarch" and draw(st.booleans())
    at = sizes.get(form) or (c, draw(st.integers(1, rows)), draw(st.integers(1, 3)))
    structure = Structure(form, at, strided)
    rng = np.random.default_rng(draw(SEEDS))
    return structure, rng.normal(size=(rows, cols))


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_structure_is_found_and_reproduced(name: str) -> None:
    weight = weights.structured()[name]
    structure = Structure.parse(name)
    form = FORMS[structure.form]
    assert form.exact(weight)[0] == structure
    fit = form.fit(weight, structure, None)
    assert residual(weight, form.dense(fit.factors, structure, weight.shape)) < 1e-25
    assert fit.residual < EXACT**2
    assert form.price(structure, weight.shape).macs < weight.size


@pytest.mark.parametrize("name", NAMES)
def test_float32_weights_are_still_found(name: str) -> None:
    weight = weights.structured()[name].astype(np.float32).astype(np.float64)
    structure = Structure.parse(name)
    assert structure in FORMS[structure.form].exact(weight)
    assert FORMS[structure.form].fit(weight, structure, None).residual < EXACT**2


@pytest.mark.parametrize("name", NAMES)
def test_noise_hides_a_structure(name: str) -> None:
    weight = weights.structured()[name]
    noise = np.random.default_rng(1).normal(size=weight.shape) * 1e-3 * np.abs(weight).max()
    structure = Structure.parse(name)
    assert not FORMS[structure.form].exact(weight + noise)


@pytest.mark.parametrize("form", list(FORMS))
def test_gaussian_weights_have_no_structure(form: str) -> None:
    weight = np.random.default_rng(2).normal(size=(96, 128))
    assert not FORMS[form].exact(weight)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), SEEDS)
def test_lines_of_zeros_change_no_rank(most: int, rows: int, cols: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.zeros((60, 50))
    lines = np.ix_(rng.permutation(60)[:rows], rng.permutation(50)[:cols])
    weight[lines] = rng.normal(size=(rows, most)) @ rng.normal(size=(most, cols))
    rank = int(np.linalg.matrix_rank(weight))
    assert rank == min(most, rows, cols)
    assert FORMS["rank"].exact(weight) == [Structure("rank", (rank,))]


@settings(max_examples=150, deadline=None)
@given(shaped())
def test_the_residual_is_that_of_the_factors(case: tuple[Structure, Matrix]) -> None:
    structure, weight = case
    form = FORMS[structure.form]
    if form.misfit(structure, weight.shape):
        return
    fit = form.fit(weight, structure, None)
    made = form.dense(fit.factors, structure, weight.shape)
    assert made.shape == weight.shape
    assert residual(weight, made) == pytest.approx(fit.residual, abs=1e-9)
    again = form.fit(made, structure, None)
    assert residual(made, form.dense(again.factors, structure, weight.shape)) < 1e-18
    parameters = sum(factor.size for factor in fit.factors)
    assert parameters == form.price(structure, weight.shape).parameters


def test_monarch_reproduces_a_fourier_transform_of_64() -> None:
    """Inputs in the order 8a + b → 8b + a make it a Monarch product: the oracle of the spec."""
    transform = weights.fourier(64)
    order = np.arange(64).reshape(8, 8).T.reshape(-1)
    for part in (transform.real, transform.imag):
        by_stride = monarch.fit(part, Structure.parse("monarch:8x8:2:stride"))
        by_run = monarch.fit(part[:, order], Structure.parse("monarch:8x8:2"))
        for fit, weight in ((by_stride, part), (by_run, part[:, order])):
            made = monarch.dense(fit.factors, fit.structure, weight.shape)
            assert np.abs(made - weight).max() < 5e-14
            assert fit.residual < 1e-28
    assert monarch.fit(transform.real, Structure.parse("monarch:8x8:2")).residual > 0.5


def test_monarch_follows_its_formula() -> None:
    rng = np.random.default_rng(3)
    k, i, j, l_, b = 3, 4, 2, 5, 2
    w1, w2 = rng.normal(size=(k, j, b, i)), rng.normal(size=(j, l_, k, b))
    expected = np.zeros((l_, j, k, i))
    for at in np.ndindex(l_, j, k, i):
        ll, jj, kk, ii = at
        expected[at] = sum(w2[jj, ll, kk, bb] * w1[kk, jj, bb, ii] for bb in range(b))
    made = monarch.dense((w1, w2), Structure("monarch", (k, j, b)), (l_ * j, k * i))
    np.testing.assert_allclose(made, expected.reshape(l_ * j, k * i), rtol=1e-12)


@pytest.mark.parametrize("text", ["monarch:2x3:1", "rank:2", "kronecker:2x2:1"])
def test_no_descent_finds_better_factors(text: str) -> None:
    structure = Structure.parse(text)
    form = FORMS[structure.form]
    weight = np.random.default_rng(4).normal(size=(6, 8))
    fit = form.fit(weight, structure, None)
    shapes = [factor.shape for factor in fit.factors]
    cuts = np.cumsum([factor.size for factor in fit.factors])[:-1]

    def lost(flat: Matrix) -> float:
        parts = np.split(flat, cuts)
        factors = tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return residual(weight, form.dense(factors, structure, weight.shape))

    for seed in range(8):
        start = np.random.default_rng(seed).normal(size=sum(f.size for f in fit.factors))
        found = scipy.optimize.minimize(lost, start, method="BFGS")
        assert found.fun >= fit.residual - 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_low_rank_drops_the_smallest_singular_values(
    rows: int, cols: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, min(rows, cols)))
    rng = np.random.default_rng(data.draw(SEEDS))
    seen = data.draw(st.integers(1, 3 * cols))  # fewer inputs than that: a singular moment
    weight, inputs = rng.normal(size=(rows, cols)), rng.normal(size=(seen, cols))
    moment = inputs.T @ inputs / len(inputs)
    values, vectors = np.linalg.eigh(moment)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    s = np.linalg.svd(weight @ root, compute_uv=False)
    fit = low_rank.fit(weight, Structure("rank", (rank,)), moment)
    assert fit.residual == pytest.approx(np.sum(s[rank:] ** 2) / np.sum(s**2), abs=1e-7)
    u, v = fit.factors
    assert residual(weight @ root, u @ v @ root) == pytest.approx(fit.residual, abs=1e-7)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_rounding_may_leave_a_moment_less_than_positive(shape: tuple[int, int]) -> None:
    """As sums in float32 do, of inputs that lie on few directions."""
    rng = np.random.default_rng(8)
    weight, inputs = rng.normal(size=shape), rng.normal(size=(100, 3))
    spread = rng.normal(size=(3, shape[1]))
    exact = spread.T @ inputs.T @ inputs @ spread / len(inputs)
    moment = exact - 1e-6 * np.trace(exact) * np.eye(shape[1])
    assert np.linalg.eigvalsh(moment)[0] < 0
    u, v = low_rank.fit(weight, Structure("rank", (3,)), moment).factors
    np.testing.assert_allclose(u.T @ u, np.eye(3), atol=1e-12)
    lost = weight - u @ v
    energies = [np.trace(each @ exact @ each.T) for each in (lost, weight)]
    assert energies[0] < 1e-5 * energies[1]


def test_half_of_the_parameters_of_noise_are_not_enough() -> None:
    """The reason why nothing is taken unasked: figures of the spec, at 50 % of the weights."""
    weight = np.random.default_rng(5).normal(size=(256, 256))
    half = {
        "monarch": FORMS["monarch"].fit(weight, Structure.parse("monarch:4x4:16"), None),
        "rank": low_rank.fit(weight, Structure.parse("rank:64")),
    }
    for name, fit in half.items():
        parameters = FORMS[name].price(fit.structure, weight.shape).parameters
        assert parameters == weight.size // 2
        assert np.sqrt(fit.residual) == pytest.approx(0.61, abs=0.02)
    smallest = np.sort(np.abs(weight).reshape(-1))[: weight.size // 2]
    assert np.sqrt(np.sum(smallest**2) / np.sum(weight**2)) == pytest.approx(0.27, abs=0.01)


def test_kronecker_products_add_up() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 2))
    weight = np.kron(a[0], b[0]) + np.kron(a[1], b[1])
    structure = Structure("kronecker", (3, 4, 2))
    fit = kronecker.fit(weight, structure)
    assert fit.residual < 1e-14
    made = kronecker.dense(fit.factors, structure, weight.shape)
    np.testing.assert_allclose(made, weight, atol=1e-12)
    assert kronecker.fit(weight, Structure("kronecker", (3, 4, 1))).residual > 1e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), SEEDS)
def test_a_hankel_product_is_a_correlation_by_fft(n: int, seed: int) -> None:
    """The formula of structured networks: ``y = irfft(rfft(c) · conj(rfft(x)))[:n]``."""
    rng = np.random.default_rng(seed)
    c, x = rng.normal(size=2 * n - 1), rng.normal(size=n)
    weight = c[np.arange(n)[:, None] + np.arange(n)[None]]
    size = 4 * n
    y = np.fft.irfft(np.fft.rfft(c, size) * np.conj(np.fft.rfft(x, size)), size)[:n]
    for block in (1, n):
        structure = Structure("hankel", (block,))
        fit = toeplitz.fit(weight, structure)
        made = toeplitz.dense(fit.factors, structure, weight.shape)
        np.testing.assert_allclose(made @ x, y, atol=1e-9)


def test_diagonals_are_averaged() -> None:
    weight = np.random.default_rng(7).normal(size=(4, 4))
    near = toeplitz.from_diagonals(toeplitz.diagonals(weight, "toeplitz"), "toeplitz", (4, 4))
    for offset in range(-3, 4):
        mean = np.diagonal(weight, offset).mean()
        np.testing.assert_allclose(np.diagonal(near, offset), mean)


@pytest.mark.parametrize("name", [*NAMES, "monarch:4x4:2", "kronecker:12x8:3"])
def test_a_structure_is_written_as_it_is_read(name: str) -> None:
    assert str(Structure.parse(name)) == name


_NO_STRUCTURES = """|rank|rank:0|rank:-1|rank:1.5|rank:100000|rank:064|rank:6 |RANK:6|rank:6
|monarch:4x4|monarch:4x4:2:strides|kronecker:8x8|dft:16x32:2|fft:8"""


@pytest.mark.parametrize("text", _NO_STRUCTURES.split("|"))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="no structure"):
        Structure.parse(text)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        *[("rank:9", (8, 16)), ("kronecker:3x2:1", (8, 16)), ("kronecker:2x2:9", (8, 16))],
        *[("monarch:3x2:1", (8, 16)), ("monarch:2x9:1", (8, 16)), ("monarch:4x4:5", (8, 16))],
        *[("dft:4x4", (7, 16)), ("circulant:4", (8, 16)), ("toeplitz:5", (8, 16))],
    ],
)
def test_what_does_not_fit_says_why(text: str, shape: tuple[int, int]) -> None:
    structure = Structure.parse(text)
    assert FORMS[structure.form].misfit(structure, shape)
