"""Made-up inputs: shapes the model accepts, the same every time."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sparsecc.errors import ModelError
from sparsecc.quality.example_inputs import example_inputs, input_specs


def save(path: Path, *inputs: onnx.ValueInfoProto, initializers=()) -> Path:
    """A model that takes `inputs` and ignores them."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0])
    graph = helper.make_graph([node], "g", list(inputs), [output], list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def tensor(name: str, dims, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def shapes(path: Path, **options) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in example_inputs(path, **options).items()}


def test_open_dimensions_go_by_axis_and_rank(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        tensor("ids", [None, None], TensorProto.INT64),
        tensor("tokens", [None, None, 384]),
        tensor("picture", [None, 3, None, None]),
        tensor("anything", [None, None, None, None]),
        tensor("fixed", [2, 5]),
        tensor("scalar", []),
    )
    assert shapes(path) == {
        "ids": (1, 16),
        "tokens": (1, 16, 384),
        "picture": (1, 3, 64, 64),
        "anything": (1, 3, 64, 64),
        "fixed": (2, 5),
        "scalar": (),
    }


def test_equal_symbols_get_equal_sizes_and_batch_is_the_first_axis(tmp_path):
    path = save(tmp_path / "m.onnx", tensor("a", ["n", "t", 8]), tensor("b", ["t", "n"]))
    assert shapes(path, batch=3) == {"a": (3, 16, 8), "b": (16, 3)}


@pytest.mark.parametrize("anonymous", ["?", ""])
def test_an_anonymous_symbol_is_not_one_symbol(tmp_path, anonymous):
    path = save(tmp_path / "m.onnx", tensor("x", [anonymous, 3, anonymous, anonymous]))
    assert shapes(path) == {"x": (1, 3, 64, 64)}


def test_zero_and_negative_sizes_are_open(tmp_path):
    path = save(tmp_path / "m.onnx", tensor("x", [-1, 0]))
    assert shapes(path) == {"x": (1, 16)}


@settings(deadline=None, max_examples=20, derandomize=True)
@given(kind=st.sampled_from(["INT64", "INT32", "UINT8", "FLOAT", "FLOAT16", "DOUBLE", "BOOL"]))
def test_values_fit_their_type_and_repeat(kind, tmp_path_factory):
    path = save(
        tmp_path_factory.mktemp("m") / "m.onnx", tensor("x", [4, 4], getattr(TensorProto, kind))
    )
    first, second = example_inputs(path)["x"], example_inputs(path)["x"]
    assert first.dtype == helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
    np.testing.assert_array_equal(first, second)
    if first.dtype.kind in "iu":
        assert set(first.ravel().tolist()) <= {0, 1}
    elif first.dtype.kind == "b":
        assert first.all()
    else:
        assert np.any(first != example_inputs(path, seed=1)["x"])


def test_masks_are_ones(tmp_path):
    path = save(tmp_path / "m.onnx", tensor("attention_mask", [None, None], TensorProto.INT64))
    assert example_inputs(path)["attention_mask"].all()


def test_initializers_among_the_inputs_are_not_fed(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    path = save(tmp_path / "m.onnx", tensor("x", [1]), tensor("w", [1]), initializers=[weight])
    assert [spec.name for spec in input_specs(path)] == ["x"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (tensor("x", [1], TensorProto.STRING), "cannot be made up"),
        (tensor("x", None), "known rank"),
        (helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]), "not a tensor"),
        (tensor("x", [1 << 15, 1 << 15]), "more elements"),
    ],
)
def test_what_cannot_be_made_up_is_refused_by_name(tmp_path, value, said):
    path = save(tmp_path / "m.onnx", value)
    with pytest.raises(ModelError, match=said) as caught:
        example_inputs(path)
    assert "x" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07\x12"])
def test_a_file_that_is_not_a_model_is_refused_by_path(tmp_path, content):
    path = tmp_path / "junk.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"junk\.onnx"):
        example_inputs(path)


def test_a_missing_file_is_refused_by_path(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        example_inputs(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        (["n", 3], [1, 3], True),
        ([1, 3], ["n", 3], True),
        ([2, 3], [1, 3], False),
        (["n", 3], ["n", 3, 1], False),
    ],
)
def test_specs_fit_when_some_tensor_is_both(tmp_path, ours, theirs, fits):
    one = input_specs(save(tmp_path / "a.onnx", tensor("x", ours)))[0]
    other = input_specs(save(tmp_path / "b.onnx", tensor("x", theirs)))[0]
    assert one.fits(other) is other.fits(one) is fits
    assert not one.fits(
        input_specs(save(tmp_path / "c.onnx", tensor("x", ours, TensorProto.INT64)))[0]
    )
