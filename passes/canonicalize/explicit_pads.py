"""Say in numbers what a convolution leaves to defaults or to `auto_pad`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsecc.padding import same_padding
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import nodes_of

_AUTO_PADS = ("SAME_UPPER", "SAME_LOWER", "VALID")


class ExplicitPads(Pass):
    """Make kernel_shape, strides, dilations, group and pads of every Conv explicit.

    `auto_pad` SAME depends on the input's size unless the stride is 1 or the size is known;
    with an unknown size and a larger stride the node is left alone.
    """

    name = "explicit-pads"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Complete the attributes of every Conv."""
        modified = False
        for node in nodes_of(model, "Conv"):
            before = {name: str(attr.value) for name, attr in node.attributes.items()}
            reason = _complete(node)
            if reason is not None:
                ctx.refuse(self.name, node, reason)
            modified |= before != {name: str(attr.value) for name, attr in node.attributes.items()}
        return modified


def _complete(node: ir.Node) -> str | None:
    """Set what is missing; returns why the pads cannot be said, if so."""
    kernel = _kernel(node)
    if kernel is None:
        return "the kernel size is not known"
    axes = len(kernel)
    strides = _ints(node, "strides", [1] * axes)
    dilations = _ints(node, "dilations", [1] * axes)
    for name, ints in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        node.attributes[name] = ir.AttrInt64s(name, ints)
    node.attributes["group"] = ir.AttrInt64("group", node.attributes.get_int("group", 1))
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad in _AUTO_PADS:
        pads = _auto_pads(node, auto_pad, kernel, strides, dilations)
        if pads is None:
            return f"auto_pad {auto_pad} with stride {strides} on an input of unknown size"
    else:
        pads = _ints(node, "pads", [0] * 2 * axes)
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return None


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes.get_ints(name, default))


def _kernel(node: ir.Node) -> list[int] | None:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is not None and weight.shape is not None and weight.shape.is_static():
        return [int(dim) for dim in weight.shape.numpy()[2:]]
    given = node.attributes.get_ints("kernel_shape")
    return None if given is None else list(given)


def _auto_pads(
    node: ir.Node,
    auto_pad: str,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int] | None:
    """Pads [begin…, end…] that `auto_pad` stands for, or None if the input's size decides."""
    if auto_pad == "VALID":
        return [0] * 2 * len(kernel)
    x = node.inputs[0]
    sizes = [None] * len(kernel) if x is None or x.shape is None else list(x.shape)[2:]
    sides = []
    for k, stride, dilation, size in zip(kernel, strides, dilations, sizes, strict=True):
        known = 1 if stride == 1 else size  # any will do
        if not isinstance(known, int):
            return None
        sides.append(same_padding(known, dilation * (k - 1) + 1, stride, auto_pad))
    return [before for before, _ in sides] + [after for _, after in sides]
