"""Steps that one call of torch does faster than two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from sparsecc.torch.program import Step


def fuse(
    steps: Sequence[Step], wanted: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[Step]:
    """Join a product with a matrix and the bias after it.

    That saves a pass over the result, and under autocast a result in single precision.

    Args:
        steps: In order.
        wanted: Names of values that must be made.
        shapes: Name → shape, of the parameters.
    """
    reads = Counter(name for step in steps for name in step.inputs)
    reads.update(wanted)
    products = {
        step.outputs[0]: step
        for step in steps
        if step.op_type == "MatMul"
        and len(shapes.get(step.inputs[1], ())) == 2
        and reads[step.outputs[0]] == 1
    }
    fused: list[Step] = []
    done: set[str] = set()
    for step in steps:
        product, bias = _parts(step, products)
        if product is not None and shapes.get(bias) == shapes[product.inputs[1]][1:]:
            inputs = (*product.inputs, bias)
            fused.append(Step(product.name, "MatMul", _linear, inputs, step.outputs))
            done.add(product.outputs[0])
        else:
            fused.append(step)
    return [step for step in fused if step.outputs[0] not in done]


def _parts(step: Step, products: Mapping[str, Step]) -> tuple[Step | None, str]:
    """The product that an Add reads, and its other operand."""
    if step.op_type == "Add":
        for product, other in (step.inputs, step.inputs[::-1]):
            if product in products:
                return products[product], other
    return None, ""


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(x, weight.t(), bias)
