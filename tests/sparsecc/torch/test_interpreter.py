"""The interpreter as a whole: partial runs, gradients, parameters, write-back."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from sparsecc.errors import ModelError, UnsupportedOpError
from sparsecc.passes.weights.layers import find_layers, matrix
from tests import small

torch = pytest.importorskip("torch")

from sparsecc.torch import Interpreter  # noqa: E402
from sparsecc.torch.layers import as_matrix, weight_name  # noqa: E402


def _tokens(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(small.tokens(seed))


@pytest.fixture(scope="module")
def mlp() -> ir.Model:
    return ir.from_proto(small.mlp())


@pytest.fixture(scope="module")
def mobilenet() -> ir.Model:
    return ir.from_proto(small.mobilenet())


def test_any_cut_gives_the_same_as_the_whole(mobilenet: ir.Model) -> None:
    interpreter = Interpreter(mobilenet)
    image = torch.from_numpy(small.image(0, 2))
    cuts = [node.outputs[0].name for node in mobilenet.graph if node.op_type == "Conv"]
    with torch.no_grad():
        every = interpreter({"image": image}, [*cuts, "output"])
        for cut in cuts[::4]:
            rest = interpreter({cut: every[cut]})
            assert torch.equal(rest["output"], every["output"])


def test_only_what_is_between_runs(mlp: ir.Model) -> None:
    interpreter = Interpreter(mlp)
    got = interpreter({"b": _tokens()}, ["c"])
    weights = interpreter.weights
    expected = _tokens() @ weights["fc2.weight"] + weights["fc2.bias"]
    torch.testing.assert_close(got["c"], expected)
    got["c"].sum().backward()
    assert {name for name, each in weights.items() if each.grad is not None} == {
        "fc2.weight",
        "fc2.bias",
    }


def test_a_fed_parameter_replaces_its_own(mlp: ir.Model) -> None:
    interpreter = Interpreter(mlp)
    own = interpreter.parameter("fc1.weight")
    mask = (torch.rand(own.shape, generator=torch.manual_seed(0)) < 0.5).float()
    got = interpreter({"x": _tokens(), "fc1.weight": own * mask})["y"]
    got.square().sum().backward()
    assert own.grad is not None
    assert not own.grad[mask == 0].any()
    with torch.no_grad():
        own.mul_(mask)
        torch.testing.assert_close(interpreter({"x": _tokens()})["y"], got)


def test_the_model_is_left_alone(mlp: ir.Model) -> None:
    before = {name: v.const_value.numpy().copy() for name, v in mlp.graph.initializers.items()}
    interpreter = Interpreter(mlp)
    with torch.no_grad():
        for parameter in interpreter.parameters():
            parameter.add_(1)
    for name, array in before.items():
        np.testing.assert_array_equal(mlp.graph.initializers[name].const_value.numpy(), array)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_writing_back_is_exact(dtype: str) -> None:
    model = ir.from_proto(small.mlp())
    kind = ir.DataType.from_numpy(np.dtype(dtype)) if dtype != "bfloat16" else ir.DataType.BFLOAT16
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(
            value.const_value.numpy().astype(kind.numpy()), name=value.name
        )
    interpreter = Interpreter(model)
    other = ir.from_proto(small.mlp())
    for value in other.graph.initializers.values():
        zeros = np.zeros(value.const_value.shape.numpy(), kind.numpy())
        value.const_value = ir.tensor(zeros, name=value.name)
    interpreter.write_back(other)
    for name, value in model.graph.initializers.items():
        written = other.graph.initializers[name].const_value
        assert written.dtype == value.const_value.dtype
        assert written.tobytes() == value.const_value.tobytes()


def test_writing_back_to_another_model_is_an_error(mlp: ir.Model, mobilenet: ir.Model) -> None:
    with pytest.raises(ModelError, match=r"no constant 'fc1\.weight'"):
        Interpreter(mlp).write_back(mobilenet)


def _layer_model(op: str, rng: np.random.Generator) -> onnx.ModelProto:
    """A layer of every form whose weight lies behind transposes and a Constant."""
    weight = rng.standard_normal((6, 8)).astype(np.float32)
    node = helper.make_node
    if op == "Conv":
        kernel = rng.standard_normal((3, 2, 8, 4)).astype(np.float32)
        nodes = [
            node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
            node("Conv", ["x", "t"], ["y"], "layer"),
        ]
        return small.model(nodes, {"x": [1, 8, 5, 5]}, {"y": [1, 4, 3, 4]}, {"w": kernel})
    if op == "Constant":
        value = onnx.numpy_helper.from_array(weight)
        nodes = [
            node("Constant", [], ["w"], value=value),
            node("Identity", ["w"], ["i"]),
            node("MatMul", ["x", "i"], ["y"], "layer"),
        ]
        return small.model(nodes, {"x": [3, 6]}, {"y": [3, 8]}, {})
    nodes = [
        node("Transpose", ["w"], ["t"]),
        node("Gemm", ["x", "t"], ["y"], "layer", transB=1),
    ]
    return small.model(nodes, {"x": [3, 6]}, {"y": [3, 8]}, {"w": weight})


@pytest.mark.parametrize("op", ["Conv", "Constant", "Gemm"])
def test_a_layer_leads_to_its_parameter(op: str) -> None:
    model = ir.from_proto(_layer_model(op, np.random.default_rng(0)))
    (layer,) = find_layers(model).layers
    interpreter = Interpreter(model)
    stored = interpreter.parameter(weight_name(layer))
    found = as_matrix(layer, stored)
    np.testing.assert_array_equal(found.detach().numpy(), matrix(layer))
    with torch.no_grad():
        stored.mul_(2)
    interpreter.write_back(model)
    np.testing.assert_array_equal(found.detach().numpy(), matrix(find_layers(model).layers[0]))


def test_numbers_are_constants_and_weights_are_parameters(mobilenet: ir.Model) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Add", ["a", "shift"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "s", "o", "m", "v"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["y"]),
    ]
    ones = np.ones(3, np.float32)
    weights = {
        "half": np.array(0.5, np.float32),
        "shift": np.ones((3, 1, 1), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        **dict.fromkeys(("s", "o", "m", "v"), ones),
    }
    proto = small.model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 8, 8]}, weights)
    assert set(Interpreter(ir.from_proto(proto)).weights) == {"shift", "s", "o"}


def test_autocast_and_caching_do_not_mix(mlp: ir.Model) -> None:
    interpreter = Interpreter(mlp)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = interpreter({"x": _tokens()})["y"]
    with torch.no_grad():
        full = interpreter({"x": _tokens()})["y"]
    assert half.dtype == torch.bfloat16
    assert full.dtype == torch.float32
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.05)
    fresh = Interpreter(mlp)({"x": _tokens()})["y"]
    assert torch.equal(full, fresh)


@pytest.mark.parametrize(
    ("feed", "wanted", "message"),
    [
        ({}, None, "'x' is needed"),
        ({"nonsense": _tokens()}, None, "'nonsense' is fed"),
        ({"x": _tokens()}, ["nonsense"], "'nonsense' is asked for"),
        ({"x": _tokens()[:, :3]}, None, "Gemm fails"),
    ],
)
def test_mistakes_are_named(mlp: ir.Model, feed: dict, wanted: list | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Interpreter(mlp)(feed, wanted)


def test_an_unknown_op_is_an_error_before_anything_runs() -> None:
    node = helper.make_node("Det", ["x"], ["y"], "here", domain="com.example")
    proto = small.model([node], {"x": [2, 2]}, {"y": []}, {})
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOpError, match=r"com\.example\.Det.*does not know") as caught:
        Interpreter(ir.from_proto(proto))
    assert caught.value.node == "here"
    assert caught.value.fix


def test_an_unknown_attribute_is_an_error() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "here", leak=0.1)
    proto = small.model([node], {"x": [2, 2]}, {"y": [2, 2]}, {})
    with pytest.raises(UnsupportedOpError, match="attribute 'leak'"):
        Interpreter(ir.from_proto(proto))


def test_another_device_needs_another_interpreter(mlp: ir.Model) -> None:
    with pytest.raises(ModelError, match="cannot be moved"):
        Interpreter(mlp).to("meta")
