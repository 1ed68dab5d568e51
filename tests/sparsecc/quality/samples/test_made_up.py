"""Inputs made up from a model: its tables, its first BatchNorm, and what is typical else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError, ModelError
from sparsecc.quality import samples
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.samples import noise
from sparsecc.quality.samples.base import Batches, Feed

Array = NDArray[np.float64]


def constant(name: str, array: NDArray[np.float32]) -> ir.Value:
    return ir.Value(name=name, const_value=ir.tensor(array), shape=ir.Shape(array.shape))


def values(**inputs: tuple[ir.DataType, list[int | str]]) -> list[ir.Value]:
    return [
        ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(dims))
        for name, (kind, dims) in inputs.items()
    ]


def plain(**inputs: tuple[ir.DataType, list[int | str]]) -> ir.Model:
    return ir.Model(ir.Graph(values(**inputs), [], nodes=[], opset_imports={"": 18}), ir_version=10)


def with_norm(weight: Array, mean: Array, variance: Array, bias: Array | None = None) -> ir.Model:
    (x,) = values(x=(ir.DataType.FLOAT, ["n", weight.shape[1], 32, 32]))
    given = {"w": weight, "mean": mean, "var": variance, "one": np.ones_like(mean)}
    if bias is not None:
        given["bias"] = bias
    known = {name: constant(name, array.astype(np.float32)) for name, array in given.items()}
    inputs = [x, known["w"], *([known["bias"]] if bias is not None else [])]
    conv = ir.node("Conv", inputs)
    norm = ir.node(
        "BatchNormalization",
        [conv.outputs[0], known["one"], known["one"], known["mean"], known["var"]],
    )
    graph = ir.Graph(
        [x],
        [norm.outputs[0]],
        nodes=[conv, norm],
        initializers=list(known.values()),
        opset_imports={"": 18},
    )
    return ir.Model(graph, ir_version=10)


def feeds(source: samples.Samples, model: ir.Model) -> tuple[Feed, ...]:
    with pytest.warns(UserWarning, match="generated inputs"):
        drawn = source.read(model)
    assert isinstance(drawn, Batches)
    assert load_calibration(drawn, model).train
    return drawn.feeds


def filtered(pictures: Array, weight: Array) -> Array:
    """Circular cross-correlation by the definition, [N, O, h, w]."""
    made = np.zeros((len(pictures), len(weight), *pictures.shape[2:]))
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            moved = np.roll(pictures, (-dy, -dx), (2, 3))
            made += np.einsum("oc,nchw->nohw", weight[:, :, dy, dx], moved)
    return made


@pytest.mark.parametrize("seed", range(5))
def test_pictures_show_the_first_layer_what_its_norm_remembers(seed: int) -> None:
    """Real pictures give a norm its figures; the noise that fits them gives the same figures."""
    rng = np.random.default_rng(seed)
    real = noise.Noise(
        rng.normal(0, 0.5, 3),
        rng.exponential(0.3, noise._BANDS),
        rng.exponential(0.1, noise._BANDS),
    )
    weight = rng.normal(0, 1, (24, 3, 3, 3))
    bias = rng.normal(0, 1, 24)
    seen = filtered(real.draw((400, 3, 32, 32), rng), weight) + bias[:, None, None]
    model = with_norm(weight, seen.mean((0, 2, 3)), seen.var((0, 2, 3)), bias)
    drawn = noise.fit_noise(model, "x", 3).draw((400, 3, 32, 32), rng)
    again = filtered(drawn, weight) + bias[:, None, None]
    deviation = seen.std((0, 2, 3))
    np.testing.assert_allclose(
        again.mean((0, 2, 3)) / deviation, seen.mean((0, 2, 3)) / deviation, atol=0.1
    )
    np.testing.assert_allclose(again.var((0, 2, 3)), seen.var((0, 2, 3)), rtol=0.15)


def test_pictures_without_a_norm_have_variance_one_and_equal_octaves() -> None:
    (model,) = [plain(x=(ir.DataType.FLOAT, ["n", 3, 64, 64]))]
    drawn = noise.fit_noise(model, "x", 3).draw((200, 3, 64, 64), np.random.default_rng(0))
    assert drawn.var() == pytest.approx(1, rel=0.1)
    power = (np.abs(np.fft.fft2(drawn)) ** 2).mean((0, 1)) / 64**4
    band = noise._bands(64, 64)
    shares = [power[band == each].sum() for each in range(noise._BANDS)]
    np.testing.assert_allclose(shares, 1 / noise._BANDS, rtol=0.15)


def test_token_numbers_are_uniform_over_their_table_types_zero_and_masks_one() -> None:
    whole = {
        "ids": (ir.DataType.INT64, ["n", "t"]),
        "attention_mask": (ir.DataType.INT64, ["n", "t"]),
    }
    inputs = values(**whole, token_type_ids=(ir.DataType.INT64, ["n", "t"]))
    table = constant("table", np.zeros((1000, 4), np.float32))
    types = constant("types", np.zeros((2, 4), np.float32))
    nodes = [ir.node("Gather", [table, inputs[0]]), ir.node("Gather", [types, inputs[2]])]
    graph = ir.Graph(inputs, [], nodes=nodes, initializers=[table, types], opset_imports={"": 18})
    made = feeds(samples.generated(samples=200), ir.Model(graph, ir_version=10))
    ids = np.concatenate([feed["ids"] for feed in made])
    assert len(ids) == 200
    assert 0 <= ids.min() < 10
    assert 990 <= ids.max() < 1000
    assert ids.mean() == pytest.approx(500, abs=30)
    assert all(np.all(feed["attention_mask"] == 1) for feed in made)
    assert all(np.all(feed["token_type_ids"] == 0) for feed in made)


def test_the_same_seed_gives_the_same_inputs_and_shapes_can_be_said() -> None:
    model = plain(x=(ir.DataType.FLOAT, ["n", 3, "h", "w"]), t=(ir.DataType.FLOAT, ["n", "k"]))
    first, second = (feeds(samples.generated(samples=20), model) for _ in range(2))
    assert [len(feed["x"]) for feed in first] == [16, 4]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a["x"], b["x"])
    other = feeds(samples.generated(samples=20, seed=1, shapes={"x": (3, 48, 320)}), model)
    assert other[0]["x"].shape == (16, 3, 48, 320)
    with pytest.raises(ModelError, match="no input 'y'"), pytest.warns(match="generated inputs"):
        samples.generated(shapes={"y": (3,)}).read(model)
    with pytest.raises(CalibrationError, match="0 samples"):
        samples.generated(samples=0)


def test_fixed_batches_bytes_and_scalars() -> None:
    model = plain(x=(ir.DataType.UINT8, [4, 3, 8, 8]), t=(ir.DataType.FLOAT, []))
    made = feeds(samples.generated(samples=10), model)
    assert [len(feed["x"]) for feed in made] == [4, 4, 4]
    everything = np.concatenate([feed["x"] for feed in made])
    assert everything.mean() == pytest.approx(128, abs=25)
    assert everything.std() > 30
