"""LiteRT with XNNPACK: an interpreter for TFLite files, which this translates from ONNX itself.

The official converters need TensorFlow or torch-xla; the benchmark models need thirty operators.
Pictures become NHWC; a tensor of four dimensions that comes from a picture is NHWC until something
that knows no pictures (`Reshape`, `Transpose`) reads it.
"""

from __future__ import annotations

import json
import sys

import numpy as np

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
NONE, RELU, RELU6 = 0, 1, 3


def open_side(job, feeds):
    """An interpreter; whatever XNNPACK covers runs in it, as by default."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(job["model"], num_threads=job["threads"])
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        value = feeds[detail["name"]]
        value = value.transpose(TO_NHWC) if value.ndim == 4 else value
        interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
    result = interpreter.get_output_details()[0]["index"]
    return interpreter.invoke, lambda _: {"output": interpreter.get_tensor(result)}


class Writer:
    """A growing TFLite file."""

    def __init__(self):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.codes = schema, {}
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []

    def tensor(self, shape, value=None, dtype=np.float32, name=""):
        """Adds a tensor, constant if it has a value; returns its index."""
        tensor = self.schema.TensorT()
        tensor.shape = [int(side) for side in shape]
        kinds = {np.dtype(np.float32): "FLOAT32", np.dtype(np.int32): "INT32"}
        tensor.type = getattr(self.schema.TensorType, kinds[np.dtype(dtype)])
        tensor.name = (name or f"t{len(self.graph.tensors)}").encode()
        tensor.buffer = 0
        if value is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(value, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def floats(self, value):
        """Adds a float32 constant."""
        return self.tensor(np.shape(value), value)

    def ints(self, value):
        """Adds an int32 constant."""
        return self.tensor(np.shape(value), value, np.int32)

    def op(self, kind, inputs, shape, options=None, dtype=np.float32, version=1, **fields):
        """Adds an operator of one output; returns the output's index."""
        code = getattr(self.schema.BuiltinOperator, kind)
        if code not in self.codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
            entry.version = version
            self.codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs = self.codes[code], list(inputs)
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, f"{options}T")()
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        output = self.tensor(shape, dtype=dtype)
        operator.outputs = [output]
        self.graph.operators.append(operator)
        return output

    def binary(self, kind, a, b, shape, act=NONE):
        """Adds ADD, SUB, MUL or DIV."""
        options = f"{kind.capitalize()}Options"
        return self.op(kind, (a, b), shape, options, fusedActivationFunction=act)

    def mean(self, x, axes, shape):
        """Adds MEAN, keeping the dimensions."""
        return self.op("MEAN", (x, self.ints(axes)), shape, "ReducerOptions", keepDims=True)

    def reshape(self, x, shape):
        """Adds RESHAPE."""
        shape = [int(side) for side in shape]
        return self.op("RESHAPE", (x, self.ints(shape)), shape, "ReshapeOptions", newShape=shape)

    def transpose(self, x, order, shape):
        """Adds TRANSPOSE to `shape`."""
        return self.op("TRANSPOSE", (x, self.ints(order)), shape, "TransposeOptions")

    def pad(self, x, shape, width):
        """Adds PAD of height and width with zeros; returns tensor and shape."""
        batch, height, columns, channels = shape
        padded = (batch, height + 2 * width, columns + 2 * width, channels)
        amounts = self.ints([[0, 0], [width, width], [width, width], [0, 0]])
        return self.op("PAD", (x, amounts), padded, "PadOptions"), padded

    def save(self, path):
        """Writes the file."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        with open(path, "wb") as file:
            file.write(builder.Output())


class Translator:
    """Translates the nodes of an ONNX graph whose shapes are known, in order."""

    def __init__(self, model):
        from onnx import numpy_helper, shape_inference

        graph = shape_inference.infer_shapes(model).graph
        self.out, self.graph = Writer(), graph
        self.constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        known = [*graph.value_info, *graph.input, *graph.output]
        self.shapes = {
            info.name: tuple(d.dim_value for d in info.type.tensor_type.shape.dim) for info in known
        }
        self.readers = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.values, self.pictures, self.done = {}, set(), set()

    def run(self):
        """The finished file."""
        for info in self.graph.input:
            shape, picture = self.shapes[info.name], len(self.shapes[info.name]) == 4
            kind = np.float32 if picture else np.int32
            where = [shape[i] for i in TO_NHWC] if picture else shape
            self.values[info.name] = self.out.tensor(where, dtype=kind, name=info.name)
            if picture:
                self.pictures.add(info.name)
        for node in self.graph.node:
            if node.output[0] not in self.done:
                self.translate(node)
        self.out.graph.inputs = [self.values[info.name] for info in self.graph.input]
        self.out.graph.outputs = [self.values[self.graph.output[0].name]]
        return self.out

    def translate(self, node):
        """Adds one node, with those that are fused into it."""
        from onnx import helper

        method = getattr(self, f"on_{node.op_type.lower()}", None)
        if method is None:
            raise NotImplementedError(f"no translation of {node.op_type}")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        method(node, attributes)

    def shape(self, name):
        """Shape as the TFLite file has it."""
        shape = self.shapes[name]
        return tuple(shape[i] for i in TO_NHWC) if name in self.pictures else shape

    def value(self, name, flat=False):
        """Index of a value or constant; `flat` undoes NHWC."""
        if name not in self.values:
            self.values[name] = self.out.floats(self.constants[name].astype(np.float32))
        index = self.values[name]
        if flat and name in self.pictures:
            return self.out.transpose(index, TO_NCHW, self.shapes[name])
        return index

    def put(self, name, index):
        """Records the value of an output that is translated now."""
        self.values[name] = index
        self.done.add(name)

    def like(self, name, source):
        """Gives an output the layout of a source."""
        if source in self.pictures and len(self.shapes[name]) == 4:
            self.pictures.add(name)

    def only_reader(self, name, kind):
        """The node that reads a value, if it is the only one and of that kind."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None

    def activation(self, name):
        """(name behind it, code) of the activation that fuses into the node that makes `name`."""
        for kind, code in (("Relu", RELU), ("Clip", RELU6)):
            if node := self.only_reader(name, kind):
                return node.output[0], code
        return name, NONE

    def on_conv(self, node, attributes):
        """CONV_2D and DEPTHWISE_CONV_2D."""
        x, stride, pad = node.input[0], attributes["strides"][0], attributes["pads"][0]
        weight = self.constants[node.input[1]]
        size, depthwise = weight.shape[2], attributes["group"] > 1
        same = stride == 1 and pad == size // 2
        tensor, shape = self.value(x), self.shape(x)
        if pad and not same:
            tensor, shape = self.out.pad(tensor, shape, pad)
        name, act = self.activation(node.output[0])
        self.pictures.add(name)
        # Depthwise [C, 1, h, w] → [1, h, w, C]; else [O, I, h, w] → [O, h, w, I].
        order, kind = ((1, 2, 3, 0), "DepthwiseConv2D") if depthwise else (TO_NHWC, "Conv2D")
        more = {"depthMultiplier": 1} if depthwise else {}
        index = self.out.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            (tensor, self.out.floats(weight.transpose(order)), self.value(node.input[2])),
            self.shape(name),
            f"{kind}Options",
            padding=self.out.schema.Padding.SAME if same else self.out.schema.Padding.VALID,
            strideH=stride,
            strideW=stride,
            dilationHFactor=1,
            dilationWFactor=1,
            fusedActivationFunction=act,
            **more,
        )
        self.put(name, index)

    def binary(self, node, kind):
        """Element by element."""
        name, act = self.activation(node.output[0])
        for source in node.input:
            self.like(name, source)
        a, b = (self.value(source) for source in node.input)
        self.put(name, self.out.binary(kind, a, b, self.shape(name), act))

    def on_add(self, node, _):
        """ADD."""
        self.binary(node, "ADD")

    def on_sub(self, node, _):
        """SUB."""
        self.binary(node, "SUB")

    def on_mul(self, node, _):
        """MUL."""
        self.binary(node, "MUL")

    def on_div(self, node, _):
        """DIV, or GELU where five nodes compute it."""
        erf = self.only_reader(node.output[0], "Erf")
        if erf is None:
            self.binary(node, "DIV")
            return
        chain = [self.only_reader(erf.output[0], "Add")]
        for _ in range(2):
            chain.append(self.only_reader(chain[-1].output[0], "Mul"))
        self.done |= {each.output[0] for each in (node, erf, *chain)}
        name = chain[-1].output[0]
        gelu = self.out.op(
            "GELU", (self.value(node.input[0]),), self.shape(name), "GeluOptions", approximate=False
        )
        self.put(name, gelu)

    def unary(self, node, kind, options=None, **fields):
        """One input, same shape."""
        name = node.output[0]
        self.like(name, node.input[0])
        tensors = (self.value(node.input[0]),)
        self.put(name, self.out.op(kind, tensors, self.shape(name), options, **fields))

    def on_sigmoid(self, node, _):
        """LOGISTIC."""
        self.unary(node, "LOGISTIC")

    def on_hardswish(self, node, _):
        """HARD_SWISH."""
        self.unary(node, "HARD_SWISH", "HardSwishOptions")

    def on_relu(self, node, _):
        """RELU that fused into nothing."""
        self.unary(node, "RELU")

    def on_softmax(self, node, _):
        """SOFTMAX."""
        self.unary(node, "SOFTMAX", "SoftmaxOptions", beta=1.0)

    def on_hardsigmoid(self, node, _):
        """min(max(x + 3, 0), 6) / 6."""
        name = node.output[0]
        self.like(name, node.input[0])
        x, shape = self.value(node.input[0]), self.shape(name)
        clipped = self.out.binary("ADD", x, self.out.floats(3.0), shape, RELU6)
        self.put(name, self.out.binary("MUL", clipped, self.out.floats(1 / 6), shape))

    def on_identity(self, node, _):
        """Another name."""
        self.like(node.output[0], node.input[0])
        self.put(node.output[0], self.value(node.input[0]))

    def on_maxpool(self, node, attributes):
        """MAX_POOL_2D; zeros may pad it because it reads what a ReLU wrote."""
        x, name, size = node.input[0], node.output[0], attributes["kernel_shape"][0]
        self.pictures.add(name)
        tensor, _ = self.out.pad(self.value(x), self.shape(x), attributes["pads"][0])
        stride = attributes["strides"][0]
        index = self.out.op(
            "MAX_POOL_2D",
            (tensor,),
            self.shape(name),
            "Pool2DOptions",
            padding=self.out.schema.Padding.VALID,
            strideH=stride,
            strideW=stride,
            filterHeight=size,
            filterWidth=size,
        )
        self.put(name, index)

    def on_globalaveragepool(self, node, _):
        """MEAN."""
        self.pictures.add(node.output[0])
        x = self.value(node.input[0])
        self.put(node.output[0], self.out.mean(x, [1, 2], self.shape(node.output[0])))

    def linear(self, name, x, weight, bias):
        """FULLY_CONNECTED with weight [outputs, inputs]."""
        name, act = self.activation(name)
        index = self.out.op(
            "FULLY_CONNECTED",
            (self.value(x), self.out.floats(weight), bias),
            self.shape(name),
            "FullyConnectedOptions",
            version=5,
            keepNumDims=len(self.shape(name)) > 2,
            fusedActivationFunction=act,
        )
        self.put(name, index)

    def on_gemm(self, node, _):
        """A linear layer over [batch, inputs]."""
        x, weight, bias = node.input
        self.linear(node.output[0], x, self.constants[weight], self.value(bias))

    def on_matmul(self, node, _):
        """A linear layer with the bias added behind it, or the product of two values."""
        a, b = node.input
        if b not in self.constants:
            shape = self.shape(node.output[0])
            pair = (self.value(a), self.value(b))
            index = self.out.op("BATCH_MATMUL", pair, shape, "BatchMatMulOptions")
            self.put(node.output[0], index)
            return
        add = self.only_reader(node.output[0], "Add")
        bias = next(name for name in add.input if name in self.constants)
        self.done.add(node.output[0])
        self.linear(add.output[0], a, self.constants[b].T, self.value(bias))

    def on_layernormalization(self, node, attributes):
        """(x - mean) / sqrt(variance + epsilon) · scale + shift."""
        x, scale, shift = (self.value(name) for name in node.input)
        shape = self.shape(node.output[0])
        axes, narrow = [len(shape) - 1], (*shape[:-1], 1)
        mean = self.out.mean(x, axes, narrow)
        square = self.out.op("SQUARED_DIFFERENCE", (x, mean), shape, "SquaredDifferenceOptions")
        variance = self.out.mean(square, axes, narrow)
        epsilon = self.out.floats(attributes["epsilon"])
        root = self.out.op("RSQRT", (self.out.binary("ADD", variance, epsilon, narrow),), narrow)
        unit = self.out.binary("MUL", self.out.binary("SUB", x, mean, shape), root, shape)
        scaled = self.out.binary("MUL", unit, scale, shape)
        self.put(node.output[0], self.out.binary("ADD", scaled, shift, shape))

    def on_reshape(self, node, _):
        """RESHAPE of the layout that ONNX means."""
        x, name = self.value(node.input[0], flat=True), node.output[0]
        self.put(name, self.out.reshape(x, self.shapes[name]))

    on_flatten = on_reshape
    on_unsqueeze = on_reshape

    def on_transpose(self, node, attributes):
        """TRANSPOSE."""
        x, name = self.value(node.input[0], flat=True), node.output[0]
        self.put(name, self.out.transpose(x, attributes["perm"], self.shapes[name]))

    def on_cast(self, node, _):
        """Flags to float32."""
        self.unary(node, "CAST", "CastOptions")

    def on_concat(self, node, attributes):
        """CONCATENATION."""
        tensors = [self.value(name, flat=True) for name in node.input]
        name, axis = node.output[0], attributes["axis"]
        index = self.out.op(
            "CONCATENATION", tensors, self.shapes[name], "ConcatenationOptions", axis=axis
        )
        self.put(name, index)

    def on_gather(self, node, attributes):
        """GATHER of rows of a table, or of one position."""
        table, index = node.input
        chosen = self.constants.get(index)
        where = self.value(index) if chosen is None else self.out.ints(chosen)
        name, axis = node.output[0], attributes.get("axis", 0)
        pair = (self.value(table), where)
        self.put(name, self.out.op("GATHER", pair, self.shapes[name], "GatherOptions", axis=axis))


if __name__ == "__main__":
    import onnx

    json.loads(sys.argv[3])  # no setting changes the file
    Translator(onnx.load(sys.argv[1])).run().save(sys.argv[2])
