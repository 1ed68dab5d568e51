"""torch.compile: the ONNX graph as a torch module, frozen and compiled by Inductor."""

from __future__ import annotations

import onnx
import torch
import torch._inductor.config
from onnx import numpy_helper
from torch.nn import functional


def open_side(job, feeds):
    """A compiled module; the first call, which compiles, is not timed."""
    torch.set_num_threads(job["threads"])
    torch._inductor.config.freezing = True
    module = Translated(onnx.load(job["model"]).graph).eval()
    inputs = {name: torch.from_numpy(value) for name, value in feeds.items()}
    if job["settings"]["channels_last"]:
        module = module.to(memory_format=torch.channels_last)
        inputs = {name: _channels_last(value) for name, value in inputs.items()}
    compiled = torch.compile(module)

    def run():
        with torch.inference_mode():
            return compiled(inputs)

    return run, lambda result: {"output": result.numpy()}


def _channels_last(value):
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


class Translated(torch.nn.Module):
    """Runs the nodes of a graph with torch's functions; Inductor sees them as one trace."""

    def __init__(self, graph):
        super().__init__()
        self.constants = {}
        for item in graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(item).copy())
            if value.ndim and value.is_floating_point():
                self.register_parameter(_key(item.name), torch.nn.Parameter(value, False))
            else:
                self.constants[item.name] = value.item() if not value.ndim else value.tolist()
        self.parameter_names = {item.name for item in graph.initializer} - self.constants.keys()
        self.steps = [
            (
                OPS[node.op_type],
                list(node.input),
                node.output[0],
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            )
            for node in graph.node
        ]

    def forward(self, inputs):
        """The output called "output"."""
        values = dict(inputs) | self.constants
        values |= {name: getattr(self, _key(name)) for name in self.parameter_names}
        for function, names, output, attributes in self.steps:
            values[output] = function(*(values[name] for name in names), **attributes)
        return values["output"]


def _key(name):
    return name.replace(".", "_")


def _conv(x, weight, bias, *, strides, pads, group, **_):
    return functional.conv2d(x, weight, bias, strides, pads[:2], groups=group)


def _max_pool(x, *, kernel_shape, strides, pads):
    return functional.max_pool2d(x, kernel_shape, strides, pads[:2])


def _norm(x, scale, shift, *, axis, epsilon):
    return functional.layer_norm(x, scale.shape, scale, shift, epsilon)


def _unsqueeze(x, axes):
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _gather(table, index, *, axis=0):
    if isinstance(index, int):
        return table.select(axis, index)
    return functional.embedding(index, table)


OPS = {
    "Add": lambda a, b: a + b,
    "Cast": lambda x, *, to: x.to(torch.float32),
    "Clip": lambda x, low, high: torch.clamp(x, low, high),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "Div": lambda a, b: a / b,
    "Erf": torch.erf,
    "Flatten": lambda x: x.flatten(1),
    "Gather": _gather,
    "Gemm": lambda x, weight, bias, *, transB: functional.linear(x, weight, bias),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda x, **_: functional.hardsigmoid(x),
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "LayerNormalization": _norm,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": lambda a, b: a * b,
    "Relu": torch.relu,
    "Reshape": lambda x, shape: x.reshape(shape),
    "Sigmoid": torch.sigmoid,
    "Softmax": lambda x, *, axis: torch.softmax(x, axis),
    "Sub": lambda a, b: a - b,
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
}
