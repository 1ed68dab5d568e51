"""What units are worth, and what makes up for them, by least squares over the samples themselves.

The oracles solve in float64 on the rows that a layer reads, stacked on √λ·I for a ridge; the code
under test only ever sees second moments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsecc.formats.patterns import Whole
from sparsecc.passes.base import Context
from sparsecc.passes.permute.couplings import find_couplings
from sparsecc.passes.remove.cut import Reach
from sparsecc.passes.remove.find import Removable, find_removable
from sparsecc.passes.remove.remove import least, remove_planned, remove_share
from sparsecc.passes.remove.worth import worth
from sparsecc.passes.weights.layers import Layer, find_layers, matrix, set_matrix
from sparsecc.passes.weights.prune_layer import RIDGES
from sparsecc.passes.weights.scores import DAMPING
from sparsecc.quality.calibration import Calibration, load_calibration
from tests.passes.remove.test_remove import NETS, answer, attention, build, canonical, mlp

Array = Any
MAKERS = {"heads": (attention(4, 4), (1, 5, 12)), **{n: NETS[n][:2] for n in ("mlp", "residual")}}


def data_of(model: ir.Model, shape: tuple[int, ...], batches: int) -> Calibration:
    """Samples that lie near a few directions, so that inputs tell about each other."""
    rng = np.random.default_rng(3)
    size, dtype = int(np.prod(shape[1:])), model.graph.inputs[0].dtype.numpy()
    mixing = rng.normal(0, 1, (4, size))
    made = [rng.normal(0, 1, (shape[0], 4)) @ mixing for _ in range(batches)]
    noise = [0.1 * rng.normal(0, 1, each.shape) for each in made]
    return load_calibration(
        [{"x": (a + b).reshape(shape).astype(dtype)} for a, b in zip(made, noise, strict=True)],
        model,
    )


def single(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model in float32: ONNX Runtime has no other convolutions."""
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float64:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return proto


def rows_read(proto: onnx.ModelProto, layer: Layer, data: Calibration) -> Array:
    """``[n, K]``: what a layer reads on the training batches."""
    name = layer.input.name or ""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.append(onnx.ValueInfoProto(name=name))
    session = ReferenceEvaluator(shown)
    seen = np.concatenate([session.run([name], dict(feed))[0] for feed in data.train])
    if layer.op != "Conv":
        return seen.reshape(-1, layer.cols).astype(np.float64)
    high, wide = layer.kernel
    around = [(0, 0), (0, 0), (high // 2,) * 2, (wide // 2,) * 2]
    windows = sliding_window_view(np.pad(seen, around), (high, wide), (2, 3))
    return windows.transpose(0, 2, 3, 4, 5, 1).reshape(-1, layer.cols).astype(np.float64)


def sets_of(model: ir.Model, kind: Whole) -> list[Removable]:
    couplings = find_couplings(model)
    return find_removable(model, couplings, Reach(couplings), kind, Context())


def ridged(rows: Array, ridge: float) -> Array:
    """``D[n + K, K]`` with DᵀD = the centred second moment and the ridge on its diagonal.

    The ridge is relative to the mean of the diagonal over the inputs that are ever active.
    """
    centred = (rows - rows.mean(0)) / len(rows) ** 0.5
    squares = (centred**2).sum(0)
    level = ridge * squares[squares > 0].mean()
    return np.concatenate([centred, np.eye(rows.shape[1]) * level**0.5])


@pytest.mark.parametrize("name", MAKERS)
def test_a_unit_is_worth_what_is_lost_without_it(name: str) -> None:
    """Every unit is taken out by itself, and the layers that read it are fitted anew."""
    maker, shape = MAKERS[name]
    model = canonical(single(build(maker, shape)))
    proto, data = ir.to_proto(model), data_of(model, shape, 60)
    sets = sets_of(model, "heads" if name == "heads" else "channels")
    found = worth(model, sets, data)
    assert sets
    for each, values in zip(sets, found, strict=True):
        wanted = np.zeros(len(each.units))
        for side in each.readers:
            read = rows_read(proto, side.layer, data)
            design = ridged(read, DAMPING)
            outputs = design @ (matrix(side.layer) * read.any(0)).T  # what is never, is free
            for unit in range(len(wanted)):
                others = design[:, side.units != unit]
                fit = np.linalg.lstsq(others, outputs, rcond=None)[0]
                wanted[unit] += ((others @ fit - outputs) ** 2).sum() / (outputs**2).sum()
        np.testing.assert_allclose(values, wanted, rtol=1e-3)


def test_ties_fall_to_the_left() -> None:
    np.testing.assert_array_equal(least(np.array([2.0, 1.0, 3.0, 1.0, 1.0]), 2), [1, 3])


def test_without_data_the_smallest_weights_go() -> None:
    model = canonical(build(mlp, (3, 12)))
    for each, values in zip(
        sets_of(model, "channels"), worth(model, sets_of(model, "channels"), None), strict=True
    ):
        (writer,), (reader,) = each.writers, each.readers
        rows, cols = (matrix(side.layer) ** 2 for side in (writer, reader))
        wanted = (rows.sum(1) / rows.sum())[np.argsort(writer.units)]
        wanted += (cols.sum(0) / cols.sum())[np.argsort(reader.units)]
        np.testing.assert_allclose(values, wanted, rtol=1e-12)


def fitted(rows: Array, wanted: Array, weight: Array, kept: Array, ridge: float) -> Array:
    """``[K, R]`` for what is read now, ``rows[n, K]``, and the outputs ``wanted[n, R]``."""
    design = ridged(rows, ridge)
    goal = (wanted - wanted.mean(0)) / len(wanted) ** 0.5
    goal = np.concatenate([goal, design[len(rows) :] @ weight])
    found = np.zeros(weight.shape)
    found[kept] = np.linalg.lstsq(design[:, kept], goal, rcond=None)[0]
    return found


def test_what_is_left_is_the_least_squares_fit() -> None:
    """Of both layers behind what goes; the second makes up for what the first still lacks."""
    shape = (16, 12)
    proto = build(mlp, shape)
    w0, b0, w1, b1, w2, b2 = (numpy_helper.to_array(each) for each in proto.graph.initializer)
    model = canonical(proto)
    names = [layer.name for layer in find_layers(model).layers]
    data = data_of(model, shape, 60)
    removed = remove_share(model, "channels", 0.4, data, Context())
    said = [float(removed.notes[name].split("refit ")[1].split(",")[0]) for name in names[1:]]
    assert set(said) <= set(RIDGES)
    first, second = (~np.isin(range(each.units), each.gone) for each in removed.sets)

    x = np.concatenate([feed["x"] for feed in data.train])
    read = np.maximum(x @ w0 + b0, 0)
    middle = read @ w1
    v1 = fitted(read, middle, w1, first, said[0])
    a1 = b1 + (middle - read @ v1).mean(0)
    dense, now = np.tanh(middle + b1), np.tanh(read @ v1 + a1)
    v2 = fitted(now, dense @ w2, w2, second, said[1])
    a2 = b2 + (dense @ w2 - now @ v2).mean(0)

    _, ours1, ours2 = (matrix(layer) for layer in find_layers(model).layers)
    np.testing.assert_allclose(ours1, v1[first][:, second].T, rtol=1e-6)
    np.testing.assert_allclose(ours2, v2[second].T, rtol=1e-6)
    np.testing.assert_allclose(answer(model, x), now @ v2 + a2, rtol=1e-6)


def test_zeros_that_are_there_stay() -> None:
    shape = (16, 12)
    model = canonical(build(mlp, shape))
    last = find_layers(model).layers[-1]
    zeros = np.random.default_rng(0).random((last.rows, last.cols)) < 0.5
    set_matrix(last, np.where(zeros, 0, matrix(last)))
    removed = remove_share(model, "channels", 0.4, data_of(model, shape, 60), Context())
    assert "refit" in removed.notes[last.name]
    kept = np.delete(zeros, removed.sets[1].gone, axis=1)
    np.testing.assert_array_equal(matrix(find_layers(model).layers[-1]) == 0, kept)


def test_a_plan_with_data_makes_the_same_bytes() -> None:
    shape = (16, 12)
    model, again = (canonical(build(mlp, shape)) for _ in range(2))
    data = data_of(model, shape, 60)
    removed = remove_share(model, "channels", 0.4, data, Context())
    assert remove_planned(again, removed.sets, data, Context()) == removed
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(model).SerializeToString()
