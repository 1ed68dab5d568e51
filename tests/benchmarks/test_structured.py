"""The benchmark of factors: its models compute what they stand for, its table has every size."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from benchmarks import structured as bench
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.rewrite import marks

SIDE, TOKENS = 64, 3


def run(model: ir.Model, shape: tuple[int, ...]):
    session = open_session(ir.to_proto(model).SerializeToString(), threads=1)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return x.reshape(TOKENS, SIDE), session.run(None, {"x": x})[0]


@pytest.mark.parametrize("build", [bench.transform, bench.low_rank, bench.kronecker, bench.monarch])
def test_factors_stand_for_a_square_weight(build) -> None:
    model = build(SIDE, TOKENS)
    mark = next(iter(marks(model.graph).values()))
    rng = np.random.default_rng(1)
    made = [rng.normal(size=s) / SIDE**0.25 for s in bench._shapes(mark.structure, SIDE)]
    weight = FORMS[mark.structure.form].dense(tuple(made), mark.structure, (SIDE, SIDE))
    x, y = run(model, (TOKENS, SIDE))
    np.testing.assert_allclose(y, x @ weight.T, atol=1e-3 * np.abs(y).max())


def test_the_ops_they_are_compared_with_compute_a_transform_and_a_toeplitz_product() -> None:
    x, y = run(bench.dft(SIDE, TOKENS), (TOKENS, SIDE, 1))
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], np.fft.rfft(x), atol=1e-3)
    model = bench.convolution(SIDE, TOKENS)
    assert model is not None
    x, y = run(model, (TOKENS, 1, SIDE))
    taps = model.graph.initializers["w"].const_value.numpy().reshape(-1)
    at = np.arange(SIDE)[None] - np.arange(SIDE)[:, None] + SIDE - 1
    np.testing.assert_allclose(y[:, 0], x @ taps[at].T, atol=1e-3)
    assert bench.convolution(2 * bench.CONV_MOST, TOKENS) is None


def test_the_command_writes_rows_and_the_page(tmp_path) -> None:
    app = bench.typer.Typer()
    app.command()(bench.main)
    out, page = tmp_path / "rows.json", tmp_path / "page.md"
    page.write_text("<!-- structured:begin -->\n<!-- structured:end -->\n")
    for sizes in ("64x3", "32x2,16x3"):
        asked = ["--sizes", sizes, "--seconds", "0.01", "-o", str(out), "--page", str(page)]
        assert CliRunner().invoke(app, asked).exit_code == 0
    rows = json.loads(out.read_text())
    assert [(row["side"], row["tokens"]) for row in rows] == [(32, 2), (16, 3), (64, 3)]
    assert all(0 < ms < 1000 for row in rows for ms in row["ms"].values())
    assert page.read_text().count("\n| ") == 4
