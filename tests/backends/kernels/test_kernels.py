"""Every kernel of the table, on every instruction set, against the numpy meaning in float64.

The harness puts a page without access behind each array, so that these tests also see a read or a
write beyond its end.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.kernels.harness import Case, build_harness, build_sanitized, run_case
from sparsecc.backends.kernels.table import ANY, ISAS, KERNELS, MATVEC_TOKENS, KernelRow
from sparsecc.formats.blocks import Block, BlockWeight, pack_blocks
from tests.backends.kernels.executables import can_run, command_of, sanitized_command

EXAMPLES = 12
TOLERANCE = 2e-5
"""Of the largest sum of magnitudes: float32 over up to a few hundred products, and erf, exp."""


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest) -> list[str]:
    """How to run the harness of the instruction set that is the parameter."""
    return command_of(request.param, build_harness)


@dataclass(frozen=True)
class Drawn:
    """A case and the shape of its weight before packing."""

    case: Case
    out_shape: tuple[int, ...]


def _weight(
    rng: np.random.Generator, shape: tuple[int, ...], block: Block, density: float
) -> NDArray[np.float32]:
    matrix = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    kept = rng.random([-(-side // b) for side, b in zip(matrix.shape, block, strict=True)])
    mask = np.kron(kept < density, np.ones(block))[: matrix.shape[0], : matrix.shape[1]]
    return (matrix * mask).reshape(shape).astype(np.float32)


def _floats(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


DENSITIES = st.sampled_from([0.0, 0.1, 0.4, 1.0])
ACTIVATIONS = st.integers(0, len(ops.ACTIVATIONS) - 1)


def blocks(row: KernelRow) -> st.SearchStrategy[Block]:
    """The blocks a kernel is for."""
    return st.tuples(*(st.integers(1, 20) if side == ANY else st.just(side) for side in row.block))


@st.composite
def matmuls(draw: st.DrawFn, block: st.SearchStrategy[Block], tokens: tuple[int, int]) -> Drawn:
    """Matmuls: any sides, one row, one column, no tokens' tail left out."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, depth = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    count, shape = draw(st.integers(*tokens)), draw(block)
    weight = pack_blocks(_weight(rng, (rows, depth), shape, draw(DENSITIES)), shape)
    out = (count, rows)
    residual = _floats(rng, out) if draw(st.booleans()) else None
    case = Case(
        "matmul",
        weight,
        _floats(rng, (rows,)),
        _floats(rng, (count, depth)),
        residual,
        draw(ACTIVATIONS),
        backwards=draw(st.booleans()),
    )
    return Drawn(case, out)


@dataclass(frozen=True)
class Window:
    """How a convolution looks at its input."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def reach(self, axis: int) -> int:
        """Pixels from the first to the last tap, less the padding: what an image must have."""
        taps = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return taps - self.pads[axis] - self.pads[axis + 2]

    def outputs(self, sides: tuple[int, int]) -> tuple[int, ...]:
        """Sides of the output."""
        return tuple((sides[i] - self.reach(i)) // self.strides[i] + 1 for i in (0, 1))


SMALL = st.integers(1, 3)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Strides, padding on each side, dilation, kernels of any sides."""
    pair = st.tuples(SMALL, SMALL)
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    near = st.integers(1, 2)
    return Window(draw(pair), draw(pair), draw(st.tuples(near, near)), pads)


def _conv(draw: st.DrawFn, window: Window, weight: BlockWeight, group: int, side: int) -> Drawn:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    drawn_sides = draw(st.tuples(st.integers(1, side), st.integers(1, side)))
    sides = (max(drawn_sides[0], window.reach(0)), max(drawn_sides[1], window.reach(1)))
    batch, rows = draw(SMALL), weight.shape[0]
    out = (batch, rows, *window.outputs(sides))
    case = Case(
        "conv",
        weight,
        _floats(rng, (rows,)),
        _floats(rng, (batch, weight.shape[3] * group, *sides)),
        _floats(rng, out) if draw(st.booleans()) else None,
        draw(ACTIVATIONS),
        window.strides,
        window.pads,
        window.dilations,
        group,
        backwards=draw(st.booleans()),
        repeat=draw(st.integers(1, 2)),
    )
    return Drawn(case, out)


@st.composite
def convs(draw: st.DrawFn, block: st.SearchStrategy[Block], groups: bool = True) -> Drawn:
    """Convolutions in groups and batches; a third are 1x1 and unpadded."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plain = draw(st.integers(0, 2)) == 0
    window = Window((1, 1)) if plain else draw(windows())
    group = draw(SMALL) if groups else 1
    inputs, outputs = draw(st.integers(1, 12)), draw(st.integers(1, 24 if groups else 70))
    shape = draw(block)
    weight = _weight(rng, (outputs * group, *window.kernel, inputs), shape, draw(DENSITIES))
    return _conv(draw, window, pack_blocks(weight, shape), group, 30 if plain else 19)


@st.composite
def depthwise(draw: st.DrawFn) -> Drawn:
    """Depthwise convolutions with every tap stored, which have kernels of their own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = draw(st.sampled_from([(3, 3), (5, 5)]))
    same = Window(kernel, pads=(kernel[0] // 2, kernel[1] // 2) * 2)
    window = draw(st.one_of(st.just(same), windows()))
    channels = draw(st.integers(1, 12))
    weight = _floats(rng, (channels, *window.kernel, 1))
    return _conv(draw, window, pack_blocks(weight, (1, 1), keep_zeros=True), channels, 40)


def expected(case: Case) -> tuple[NDArray[np.floating], float]:
    """The result in float64, and the largest sum of magnitudes behind an element of it."""
    base = "SparseConv" if case.op == "conv" else "SparseMatMul"
    attributes: dict[str, int | list[int]] = {}
    if case.op == "conv":
        attributes = {
            "strides": list(case.strides),
            "pads": list(case.pads),
            "dilations": list(case.dilations),
            "group": case.group,
        }

    def call(change: np.ufunc) -> ops.Call:
        x, bias = (change(part.astype(np.float64)) for part in (case.x, case.bias))
        packed = replace(case.weight, values=change(case.weight.values.astype(np.float64)))
        residual = None if case.residual is None else change(case.residual.astype(np.float64))
        return ops.Call(x, packed, bias, attributes, residual)

    add = case.residual is not None
    name = ops.ACTIVATIONS[case.activation].name
    result = ops.evaluate(ops.variant(base, add, name), call(np.positive))
    sums = ops.evaluate(ops.variant(base, add), call(np.absolute))
    return result, float(sums.max(initial=1.0))


def check(drawn: Drawn, command: list[str]) -> None:
    got = run_case(drawn.case, drawn.out_shape, command)
    want, magnitude = expected(drawn.case)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * magnitude)


def with_code(drawn: Drawn) -> Drawn:
    return replace(drawn, case=replace(drawn.case, generated=True))


def strategy(row: KernelRow) -> st.SearchStrategy[Drawn]:
    if row.generated and row.op == "conv":
        return convs(blocks(row), groups=False).map(with_code)
    if row.generated:
        return matmuls(blocks(row), (1, 70)).map(with_code)
    if row.op == "conv":
        return convs(blocks(row))
    few = row.op == "matvec"
    return matmuls(blocks(row), (1, MATVEC_TOKENS) if few else (MATVEC_TOKENS + 1, 70))


@pytest.mark.parametrize(
    ("row", "command"),
    [(row, row.isa) for row in KERNELS],
    ids=[row.name for row in KERNELS],
    indirect=["command"],
)
def test_kernel_is_its_numpy_meaning(row: KernelRow, command: list[str]) -> None:
    @settings(max_examples=8 * EXAMPLES if row.generated else EXAMPLES)
    @given(strategy(row))
    def holds(drawn: Drawn) -> None:
        check(drawn, command)

    holds()


@pytest.mark.parametrize("command", list(ISAS), indirect=True)
def test_depthwise_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=4 * EXAMPLES)
    @given(depthwise())
    def holds(drawn: Drawn) -> None:
        check(drawn, command)

    holds()


@pytest.mark.parametrize("command", list(ISAS), indirect=True)
@pytest.mark.parametrize(
    ("channels", "kernel", "height", "width"),
    [(64, 3, 60, 70), (300, 5, 24, 500), (96, 1, 64, 64), (40, 1, 16, 40)],
)
def test_large_images_take_several_tiles(
    command: list[str], channels: int, kernel: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(0)
    weight = _weight(rng, (20, kernel, kernel, channels), (4, 1), 0.1)
    out, pad = (2, 20, height, width), kernel // 2
    x = _floats(rng, (2, channels, height, width))
    case = Case("conv", pack_blocks(weight, (4, 1)), _floats(rng, (20,)), x, pads=(pad,) * 4)
    check(Drawn(case, out), command)


@pytest.mark.parametrize("command", list(ISAS), indirect=True)
def test_many_tokens_take_several_tiles(command: list[str]) -> None:
    rng = np.random.default_rng(0)
    weight = pack_blocks(_weight(rng, (75, 130), (4, 1), 0.2), (4, 1))
    x, bias = _floats(rng, (1000, 130)), _floats(rng, (75,))
    check(Drawn(Case("matmul", weight, bias, x), (1000, 75)), command)


@pytest.mark.parametrize("command", ["x86-64-v4"], indirect=True)
@pytest.mark.parametrize(
    ("channels", "kernel", "side", "stride"),
    [
        *((300, 1, 14, 1), (40, 1, 100, 1), (64, 3, 40, 1), (512, 1, 7, 1), (200, 3, 7, 1)),
        *((200, 3, 14, 1), (90, 3, 28, 2)),
        *((70, 3, 33, 2), (70, 3, 68, 2), (300, 1, 14, 2), (20, 5, 50, 3), (9, 3, 40, 5)),
    ],
)
def test_generated_code_takes_several_strips_panels_and_groups(
    command: list[str], channels: int, kernel: int, side: int, stride: int
) -> None:
    rng = np.random.default_rng(0)
    weight = _weight(rng, (95, kernel, kernel, channels), (1, 1), 0.1)
    pad = kernel // 2
    out = (2, 95, *Window((kernel, kernel), (stride,) * 2, pads=(pad,) * 4).outputs((side, side)))
    x, bias = _floats(rng, (2, channels, side, side)), _floats(rng, (95,))
    case = Case(
        "conv", pack_blocks(weight, (1, 1)), bias, x, strides=(stride,) * 2, pads=(pad,) * 4
    )
    check(with_code(Drawn(case, out)), command)


@pytest.mark.parametrize("command", ["x86-64-v4"], indirect=True)
@pytest.mark.parametrize(("tokens", "depth"), [(200, 700), (1000, 600), (300, 1500)])
def test_generated_code_takes_many_tokens(command: list[str], tokens: int, depth: int) -> None:
    rng = np.random.default_rng(0)
    weight = pack_blocks(_weight(rng, (95, depth), (1, 1), 0.1), (1, 1))
    x, bias = _floats(rng, (tokens, depth)), _floats(rng, (95,))
    check(with_code(Drawn(Case("matmul", weight, bias, x), (tokens, 95))), command)


@pytest.mark.parametrize("command", ["x86-64-v4"], indirect=True)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4)])
def test_generated_code_takes_patterns_of_n_in_m(command: list[str], n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    kept = np.argsort(rng.random((70, 600 // m, m)), axis=-1) < n
    weight = _floats(rng, (70, 600)) * kept.reshape(70, 600)
    x, bias = _floats(rng, (37, 600)), _floats(rng, (70,))
    check(with_code(Drawn(Case("matmul", pack_blocks(weight, (1, 1)), bias, x), (37, 70))), command)


@pytest.mark.parametrize("command", ["x86-64-v4"], indirect=True)
def test_code_of_another_weight_is_not_run(command: list[str]) -> None:
    one, other = (pack_blocks(np.eye(4, k=k, dtype=np.float32), (1, 1)) for k in (0, 1))
    x, bias = np.ones((8, 4), np.float32), np.zeros(4, np.float32)
    made = Case("matmul", one, bias, x, generated=True)
    for changed in (other, replace(one, index=one.index[:3], values=one.values[:3])):
        with pytest.raises(RuntimeError, match="no code for this weight"):
            run_case(replace(made, weight=changed, code_for=one), (8, 4), command)


@pytest.mark.parametrize("command", list(ISAS), indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": np.array([1, 0], np.int32)}, "ascending"),
        ({"index": np.array([0, 4], np.int32)}, "outside the block grid"),
        ({"grid": (3, 2, 4, 1)}, "grid does not match"),
        ({"grid": (2, 2, 0, 1)}, "block is outside"),
    ],
)
def test_a_bad_weight_is_refused(
    command: list[str], change: dict[str, object], message: str
) -> None:
    weight = pack_blocks(np.eye(8, 2, dtype=np.float32), (4, 1))
    weight = replace(weight, index=np.array([0, 1], np.int32), values=np.ones((2, 4), np.float32))
    bad = replace(weight, **change)  # type: ignore[arg-type]
    case = Case("matmul", bad, np.zeros(8, np.float32), np.ones((1, 2), np.float32))
    with pytest.raises(RuntimeError, match=message):
        run_case(case, (1, 8), command)


@pytest.mark.parametrize(
    ("isa", "needs"), [("x86-64-v3", "AVX2 and FMA"), ("x86-64-v4", "AVX-512")]
)
def test_an_older_cpu_is_told_what_it_lacks(isa: str, needs: str) -> None:
    names = ("qemu-x86_64-static", "qemu-x86_64")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip("qemu-x86_64 is not installed")
    old = [found, "-cpu", "Nehalem", str(build_harness(isa))]
    weight = pack_blocks(np.eye(4, dtype=np.float32), (1, 1))
    case = Case("matmul", weight, np.zeros(4, np.float32), np.ones((1, 4), np.float32))
    with pytest.raises(RuntimeError, match=needs):
        run_case(case, (1, 4), old)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The harness under address and undefined-behaviour sanitizers, on the best variant here."""
    return sanitized_command(build_sanitized, tmp_path_factory)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    any_block = st.tuples(st.integers(1, 17), st.integers(1, 3))
    ones = st.just((1, 1))
    generated = [convs(ones, groups=False).map(with_code), matmuls(ones, (1, 70)).map(with_code)]
    if can_run("x86-64-v4"):
        generated = []

    @settings(max_examples=12 * EXAMPLES)
    @given(st.one_of(convs(any_block), matmuls(any_block, (1, 70)), depthwise(), *generated))
    def holds(drawn: Drawn) -> None:
        check(drawn, sanitized)

    holds()
