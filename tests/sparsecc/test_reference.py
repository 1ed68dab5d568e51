"""What a model without its graph should compute, as a manifest says it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.manifest import PortEntry, ReferenceEntry
from sparsecc.quality.example_inputs import example_inputs, input_specs
from sparsecc.reference import MOST_VALUES, distance, feeds_for, model_of, reference
from tests import small

PORTS = [
    PortEntry(name="ids", dtype="int64", dims=("batch", 7)),
    PortEntry(name="mask", dtype="bool", dims=("batch", "words")),
    PortEntry(name="x", dtype="float32", dims=(2, 3)),
]


def test_ports_are_the_inputs_of_a_model() -> None:
    assert [str(spec) for spec in input_specs(model_of(PORTS))] == [
        "ids int64[batch, 7]",
        "mask bool[batch, words]",
        "x float32[2, 3]",
    ]


def test_the_feeds_are_those_of_the_model_itself() -> None:
    model = capture(small.mlp("n"))
    ports = [PortEntry(name="x", dtype="float32", dims=("n", small.tokens(0).shape[1]))]
    for name, array in example_inputs(model).items():
        np.testing.assert_array_equal(feeds_for(ports)[name], array)


def entry(array: np.ndarray) -> ReferenceEntry:
    """The reference of a model that gives an array whatever comes in."""

    class Constant:
        def run(self, names: object, feed: object) -> list[np.ndarray]:
            return [array]

    (made,) = reference(Constant(), PORTS, [PortEntry(name="y", dtype="float32", dims=())])
    return made


def test_a_model_is_near_its_own_reference_and_far_from_anothers() -> None:
    session = session_of_model(capture(small.mlp()))
    port = PortEntry(name="x", dtype="float32", dims=tuple(small.tokens(0).shape))
    (made,) = reference(session, [port], [PortEntry(name="y", dtype="float32", dims=())])
    (result,) = session.run(None, dict(feeds_for([port])))
    assert made.shape == result.shape
    assert len(made.values) == MOST_VALUES
    assert distance(made, result) < 1e-5
    assert distance(made, -result) > 0.1
    assert distance(made, result[:-1]) == np.inf


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300), st.data())
def test_the_ends_are_looked_at_and_the_distance_is_relative(values, data) -> None:
    array = np.array(values, np.float32)
    made = entry(array)
    assert distance(made, array) <= 1e-5
    worse = array.copy()
    at = data.draw(st.sampled_from([0, -1]))
    worse[at] += 2 * max(1.0, np.abs(array).max())
    assert distance(made, worse) > 1


def test_a_model_that_refuses_what_is_made_up_has_no_reference() -> None:
    port = PortEntry(name="other", dtype="float32", dims=(1,))
    assert reference(session_of_model(capture(small.mlp())), [port], [port]) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_json_cannot_hold(bad: float) -> None:
    made = entry(np.array([bad, 1.0], np.float32))
    assert np.isfinite([*made.values, made.scale]).all()
    assert distance(made, np.array([bad, 1.0], np.float32)) == 0


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 2.0, 3.0)])
def test_a_reference_of_another_size_never_agrees(values: tuple[float, ...]) -> None:
    made = ReferenceEntry(name="y", shape=(2,), scale=1.0, values=values)
    assert distance(made, np.zeros(2, np.float32)) == np.inf
