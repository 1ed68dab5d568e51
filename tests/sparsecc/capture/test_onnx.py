from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.capture import capture, sparse_initializers
from sparsecc.errors import ModelError
from sparsecc.passes.verifier import verify_model

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 4)).astype("f4")


def linear(opset: int = 17, weight: np.ndarray = WEIGHT, ir_version: int = 8) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "fc.weight"], ["h"]),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", 1, ["N", 6])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [numpy_helper.from_array(weight, "fc.weight")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def outputs(proto: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)


class TestForms:
    @pytest.mark.parametrize("opset", range(11, 25))
    def test_every_opset(self, opset):
        model = capture(linear(opset))
        verify_model(model)
        assert [node.name for node in model.graph] == ["fc", "y"]
        assert model.opset_imports[""] == opset

    def test_path_string_proto_and_model_agree(self, tmp_path):
        path = tmp_path / "linear.onnx"
        onnx.save(linear(), path)
        forms = [path, str(path), linear(), ir.from_proto(linear())]
        contents = {ir.to_proto(capture(form)).SerializeToString() for form in forms}
        assert len(contents) == 1

    def test_the_object_of_the_user_is_left_alone(self):
        proto, model = linear(ir_version=3), ir.from_proto(linear())
        proto.graph.input.append(helper.make_tensor_value_info("fc.weight", 1, [6, 4]))
        before = proto.SerializeToString(), ir.to_proto(model).SerializeToString()
        for form in (proto, model):
            captured = capture(form)
            captured.graph.remove(captured.graph.node(1))
            captured.graph.node(0).name = "changed"
        assert (proto.SerializeToString(), ir.to_proto(model).SerializeToString()) == before

    def test_initializers_that_are_inputs_become_weights(self):
        proto = linear(ir_version=3)
        proto.graph.input.append(helper.make_tensor_value_info("fc.weight", 1, [6, 4]))
        model = capture(proto)
        assert [value.name for value in model.graph.inputs] == ["x"]
        assert model.ir_version == 4

    def test_quantised_functions_and_subgraphs_are_kept(self):
        text = """<ir_version: 8, opset_import: ["" : 19, "own" : 1]>
        g (float[N, 6] x, bool c) => (float[N, 4] y) {
          a = own.twice(x)
          w = DequantizeLinear(q, s)
          h = MatMul(a, w)
          y = If (c) <
            then_branch = t () => (float[N, 4] u) { u = Relu(h) },
            else_branch = e () => (float[N, 4] v) { v = Neg(h) }
          >
        }
        <domain: "own", opset_import: ["" : 19]>
        twice (x) => (y) { y = Add(x, x) }"""
        proto = onnx.parser.parse_model(text)
        arrays = {"q": RNG.integers(-9, 9, (6, 4)).astype("i1"), "s": np.array(0.1, "f4")}
        proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
        model = capture(proto)
        verify_model(model)
        assert [node.op_type for node in model.graph][1:] == ["DequantizeLinear", "MatMul", "If"]
        feeds = {"x": RNG.standard_normal((2, 6)).astype("f4"), "c": np.array(True)}
        np.testing.assert_array_equal(outputs(ir.to_proto(model), **feeds), outputs(proto, **feeds))


class TestRefused:
    @pytest.mark.parametrize("opset", [7, 10, 25])
    def test_opset(self, opset):
        with pytest.raises(ModelError, match=f"opset {opset} is outside 11–24") as caught:
            capture(linear(opset))
        assert "convert_version" in str(caught.value)

    def test_no_opset(self):
        proto = linear()
        proto.opset_import[0].domain = "com.microsoft"
        with pytest.raises(ModelError, match="imports no ONNX opset"):
            capture(proto)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"not a model at all",
            b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
            linear().SerializeToString()[:-7],
            linear().SerializeToString()[:40],
        ],
    )
    def test_garbage_and_truncated_files(self, tmp_path, content):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"bad.onnx: "):
            capture(path)

    def test_absent_file_and_folder(self, tmp_path):
        for path in (tmp_path / "none.onnx", tmp_path):
            with pytest.raises(ModelError, match="cannot be read"):
                capture(path)

    def test_other_objects(self):
        with pytest.raises(ModelError, match=r"a builtins.int is not a model"):
            capture(3)

    def test_a_graph_that_contradicts_itself(self):
        proto = linear()
        proto.graph.node[1].output[0] = "h"
        with pytest.raises(ModelError, match="malformed"):
            capture(proto)

    @pytest.mark.parametrize(("value", "dtype"), [
        (np.nan, "f4"), (np.inf, "f4"), (-np.inf, "f8"), (np.nan, "f2"),
    ])  # fmt: skip
    def test_weights_that_are_not_finite(self, value, dtype):
        weight = WEIGHT.astype(dtype)
        weight[2, 1] = value
        with pytest.raises(ModelError, match=r"'fc.weight' of shape \[6,4\]"):
            capture(linear(weight=weight))

    def test_infinite_masks_are_fine_but_nan_is_not(self):
        proto = linear()
        proto.graph.node[1].CopyFrom(helper.make_node("Add", ["h", "mask"], ["y"]))
        mask = numpy_helper.from_array(np.array([0, -np.inf, 0, 0], "f4"), "mask")
        proto.graph.initializer.append(mask)
        capture(proto)
        nan = numpy_helper.from_array(np.array([0, np.nan, 0, 0], "f4"), "mask")
        proto.graph.initializer[1].CopyFrom(nan)
        with pytest.raises(ModelError, match=r"'mask'.* 1 NaN"):
            capture(proto)


class TestExternalData:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        path = folder / "linear.onnx"
        ir.save(ir.from_proto(linear()), path, external_data="linear.data", size_threshold_bytes=0)
        return path

    def relocate(self, path: Path, **fields: str) -> None:
        proto = onnx.load(path, load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            entry.value = fields.get(entry.key, entry.value)
        path.write_bytes(proto.SerializeToString())

    def test_stays_on_disk_until_read(self, path):
        model = capture(path)
        tensor = model.graph.initializers["fc.weight"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.raw is None
        np.testing.assert_array_equal(tensor.numpy(), WEIGHT)

    def test_relative_path_of_the_model(self, path, monkeypatch):
        monkeypatch.chdir(path.parent)
        model = capture(path.name)
        monkeypatch.chdir("/")
        tensor = model.graph.initializers["fc.weight"].const_value
        np.testing.assert_array_equal(tensor.numpy(), WEIGHT)

    def test_missing(self, path):
        (path.parent / "linear.data").unlink()
        with pytest.raises(ModelError, match=r"'fc.weight' .*linear.data.* cannot be read"):
            capture(path)

    def test_too_short(self, path):
        (path.parent / "linear.data").write_bytes(bytes(50))
        with pytest.raises(
            ModelError, match=r"needs 96 bytes at 0 of 'linear.data', which holds 50"
        ):
            capture(path)

    @pytest.mark.parametrize("fields", [{"offset": "8"}, {"length": "8"}, {"offset": "-1"}])
    def test_wrong_range(self, path, fields):
        self.relocate(path, **fields)
        with pytest.raises(ModelError, match=r"'linear.data'|malformed"):
            capture(path)

    @pytest.mark.parametrize("location", [
        "/etc/hostname", "../linear.data", "sub/../../linear.data", "C:\\linear.data",
        "..\\linear.data", "",
    ])  # fmt: skip
    def test_outside_by_name(self, path, location):
        (path.parent.parent / "linear.data").write_bytes(WEIGHT.tobytes())
        self.relocate(path, location=location)
        with pytest.raises(ModelError, match="outside the model's folder"):
            capture(path)

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_outside_by_link(self, path, link):
        target, data = path.parent.parent / "secret", path.parent / "linear.data"
        data.rename(target)
        link(target, data)
        with pytest.raises(ModelError, match=r"'fc.weight' .*outside the model's folder"):
            capture(path)

    def test_a_folder_instead_of_a_file(self, path):
        data = path.parent / "linear.data"
        data.unlink()
        data.mkdir()
        with pytest.raises(ModelError, match=r"'fc.weight'"):
            capture(path)

    def test_a_message_in_memory_does_not_know_its_folder(self, path):
        proto = onnx.load(path, load_external_data=False)
        with pytest.raises(ModelError, match="does not know the folder"):
            capture(proto)


class TestSparseInitializers:
    DENSE = np.zeros((6, 4), "f4")
    FLAT = np.array([1, 6, 23], np.int64)
    DENSE.reshape(-1)[FLAT] = (1, 2, 3)

    def sparse(self, values, indices, dims, name="fc.weight") -> onnx.ModelProto:
        proto = linear()
        del proto.graph.initializer[:]
        proto.graph.sparse_initializer.append(
            helper.make_sparse_tensor(
                numpy_helper.from_array(np.asarray(values, "f4"), name),
                numpy_helper.from_array(np.asarray(indices, np.int64), f"{name}_indices"),
                dims,
            )
        )
        return proto

    @pytest.mark.parametrize("form", ["linear", "2-D"])
    def test_both_index_forms(self, form):
        indices = self.FLAT if form == "linear" else np.stack(np.divmod(self.FLAT, 4), 1)
        proto = self.sparse([1, 2, 3], indices, [6, 4])
        before = proto.SerializeToString()
        model = capture(proto)
        assert proto.SerializeToString() == before
        tensor = model.graph.initializers["fc.weight"].const_value
        np.testing.assert_array_equal(tensor.numpy(), self.DENSE)
        x = RNG.standard_normal((2, 6)).astype("f4")
        (y,) = outputs(ir.to_proto(model), x=x)
        np.testing.assert_allclose(y, np.maximum(x @ self.DENSE, 0), rtol=1e-5)

    def test_nothing_stored_is_all_zeros(self):
        model = capture(self.sparse([], [], [6, 4]))
        assert not model.graph.initializers["fc.weight"].const_value.numpy().any()

    def test_sparse_constants(self):
        proto = self.sparse([1, 2, 3], self.FLAT, [6, 4])
        constant = helper.make_node("Constant", [], ["fc.weight"])
        attribute = onnx.AttributeProto(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
        attribute.sparse_tensor.CopyFrom(proto.graph.sparse_initializer[0])
        constant.attribute.append(attribute)
        del proto.graph.sparse_initializer[:]
        nodes = [constant, *proto.graph.node]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        tensor = capture(proto).graph.node(0).attributes["value"].as_tensor()
        np.testing.assert_array_equal(tensor.numpy(), self.DENSE)

    @pytest.mark.parametrize(("values", "indices", "dims"), [
        ([1.0], [0], [1 << 20, 1 << 20]),  # a few bytes that claim 4 TB
        ([1.0], [24], [6, 4]),
        ([1.0], [-1], [6, 4]),
        ([1.0, 2.0], [3, 3], [6, 4]),
        ([1.0, 2.0], [5, 3], [6, 4]),
        ([1.0], [[6, 0]], [6, 4]),
        ([1.0], [[0, -1]], [6, 4]),
        ([1.0], [0, 1], [6, 4]),
        ([1.0], [0], [6, -4]),
        ([1.0], [0], [6, 0]),
        ([1.0], [0], []),
        (np.ones((2, 2)), [0, 1], [6, 4]),
        (np.ones(25), np.arange(25), [6, 4]),
    ])  # fmt: skip
    def test_malformed(self, values, indices, dims):
        with pytest.raises(ModelError, match=r"sparse initializer 'fc.weight' cannot be read"):
            capture(self.sparse(values, indices, dims))

    def test_together_they_are_bounded(self, monkeypatch):
        monkeypatch.setattr(sparse_initializers, "MAX_DENSE_BYTES", 2 * 96)
        proto = self.sparse([1.0], [0], [6, 4])
        for number in range(2):
            extra = proto.graph.sparse_initializer.add()
            extra.CopyFrom(proto.graph.sparse_initializer[0])
            extra.values.name = f"extra{number}"
        with pytest.raises(ModelError, match="'extra1'"):
            capture(proto)

    def test_external_values_are_refused(self):
        proto = self.sparse([1.0], [0], [6, 4])
        values = proto.graph.sparse_initializer[0].values
        values.ClearField("raw_data")
        values.data_location = TensorProto.EXTERNAL
        with pytest.raises(ModelError, match="external data"):
            capture(proto)


def test_the_other_spelling_of_the_default_domain_is_understood() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx", 17)])
    model = capture(proto)
    assert model.opset_imports == {"": 17}
    assert model.graph.node(0).domain == ""


def test_sizes_that_mean_any_are_unknown() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [-1, 3, 0]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = capture(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    shape = model.graph.inputs[0].shape
    assert [dim if isinstance(dim, int) else None for dim in shape] == [None, 3, None]
