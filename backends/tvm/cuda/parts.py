"""What of a model becomes launches of our kernels, and what is left to TVM.

Kernels of ours compute what is sparse, and layers and attention that are not: on tensor cores,
which TVM's kernels of float32 do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.cuda.attention import FEATURES
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.tvm.cuda.attention import attention_region
from sparsecc.backends.tvm.cuda.experts import mixture_region, write_every_expert
from sparsecc.backends.tvm.cuda.linear import as_product, linear_layers
from sparsecc.backends.tvm.cuda.products import DENSE, product_region
from sparsecc.backends.tvm.cuda.regions import Region
from sparsecc.cost.model import cost_model
from sparsecc.errors import BackendError, PlanError
from sparsecc.formats.blocks import unpack_blocks
from sparsecc.formats.patterns import HALVES, keeps_within
from sparsecc.passes import edit
from sparsecc.passes.attention.blocks import as_op, self_attentions
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.constant_folding import ConstantFolding
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.weights.choose import packed_work
from sparsecc.passes.weights.to_dense import ToDense
from sparsecc.targets import Target
from sparsecc.targets.cuda import arch_of_target

PASS_NAME = "cuda"
PLACE = "sparsecc.launched"
"""Domain of nodes that stand for a region: no pass knows what they compute."""

SAFE = 2.0**15
"""Magnitudes over calibration data up to which kernels of float16 are taken: half of its end."""
UNKNOWN: Mapping[str, float] = MappingProxyType({})
Maker = Callable[[ir.Node, Shapes, str, Arch], Region]
"""Makes the region of a node; raises BackendError or PlanError where there is no kernel."""


@dataclass(frozen=True)
class Parts:
    """A model in parts.

    Attributes:
        model: Of standard ops, and of nodes of the domain :data:`PLACE`.
        regions: What computes these, by name of the node.
        reasons: Why a sparse layer, attention or mixture runs dense, by its name.
    """

    model: ir.Model
    regions: dict[str, Region] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def parts_of(
    model: ir.Model, name: str, target: Target, largest: Mapping[str, float] = UNKNOWN
) -> Parts:
    """Take a rewritten model apart; it is left as it is.

    Args:
        model: With ops of our domain where the plan has something sparse.
        name: What names of functions begin with.
        target: What it is for.
        largest: Largest magnitudes by the name of a value or of the node that writes it, as far as
            they are known: what comes near the end of float16 is left to TVM.

    Raises:
        BackendError: A mixture of experts has weights that are no constants.
    """
    parts, context, most = Parts(model.clone()), Context(), dict(largest)
    parts.model.opset_imports[PLACE] = 1  # what infers shapes refuses domains that are not there
    graph = parts.model.graph
    for found in self_attentions(parts.model)[0]:
        if found.parts[0].dims[-1] in FEATURES:
            read = (*found.found.product.inputs, found.found.context.inputs[1])
            most[found.name] = _most(most, found.name, *(str(each.name) for each in read if each))
            as_op(found)
    own: dict[str, Maker] = {}
    for each in graph:
        if ops.is_attention(each) or ops.is_mixture(each):
            made = attention_region if ops.is_attention(each) else mixture_region
            own[str(each.name)] = made
    products = {_product(each): each for each in graph if ops.is_sparse(each)}
    forms = {each: _form(node, target) for each, node in products.items()}
    place = partial(_place, parts, name, target, most)
    place(own)
    for each in [each for each in graph if ops.is_mixture(each)]:
        write_every_expert(each)
    for each in graph:
        if ops.is_ours(each) and each not in products.values() and each.name not in own:
            parts.reasons[str(each.name)] = "no kernel for GPUs yet"
    run([ToDense(), ShapeInference(), ConstantFolding(), DeadCode()], parts.model, context)
    makers = {each: partial(product_region, form=form) for each, form in forms.items()}
    place(makers, {each: str(node.name) for each, node in products.items()})
    dense = [each for each in linear_layers(parts.model) if each.name not in makers]
    layers = {str(as_product(each).name): each.name for each in dense}
    place(dict.fromkeys(layers, partial(product_region, form=DENSE)), layers)
    run([DeadCode()], parts.model, context)
    return parts


def _most(largest: Mapping[str, float], *names: str) -> float:
    """The largest of these that is known."""
    return max(largest.get(each, 0.0) for each in names)


def _product(node: ir.Node) -> str:
    """Name of the standard product that a sparse layer becomes."""
    return f"{node.name}.0"


def _form(node: ir.Node, target: Target) -> str:
    """The form that the cost model chose for a sparse layer; "" for a convolution."""
    if ops.parse(node.op_type).base != "SparseMatMul":
        return ""
    weight = ops.read_packed(node)
    halved = keeps_within(unpack_blocks(weight) != 0, *HALVES)
    work, blocks = packed_work(node), len(weight.index)
    return cost_model(target).form(work, weight.block, blocks, halved=halved)


def _place(
    parts: Parts,
    name: str,
    target: Target,
    most: Mapping[str, float],
    makers: Mapping[str, Maker],
    layers: Mapping[str, str] | None = None,
) -> None:
    """Put places for nodes, by their names, where a region can be made; note why elsewhere."""
    shapes, arch = Shapes(parts.model), arch_of_target(target)
    for node in [each for each in parts.model.graph if each.name in makers]:
        layer = (layers or {}).get(str(node.name), str(node.name))
        function = f"{name}_region{len(parts.regions)}"
        values = (*node.inputs, *node.outputs)
        reached = _most(most, layer, *(str(each.name) for each in values if each is not None))
        if reached > SAFE:
            parts.reasons[layer] = f"its values reach {reached:.3g}, and float16 ends at 65504"
            continue
        try:
            region = makers[str(node.name)](node, shapes, function, arch)
        except (BackendError, PlanError) as error:
            parts.reasons[layer] = error.message
            continue
        parts.regions[layer] = region
        place = ir.Node(PLACE, "Region", list(node.inputs[: len(region.inputs)]), name=layer)
        old, new = node.outputs[0], place.outputs[0]
        new.type, new.shape = old.type, old.shape
        edit.replace([node], [place], at=node)
